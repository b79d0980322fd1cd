// The data of the page: unpacked once, never changed. Text from outside is text everywhere: it is only ever set as
// `textContent`.

/** Read the packed data of this page. */
async function readData() {
  const packed = document.getElementById("packed-data").textContent;
  const stream = new Blob([bytesOf(packed)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function bytesOf(base64) {
  if (Uint8Array.fromBase64 !== undefined) return Uint8Array.fromBase64(base64);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

/** Make an element; a string among the children is text. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// As `printable_lines` in Python: controls, direction marks and invisible characters become visible.
const UNSAFE =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/** Return a text in which nothing is invisible and nothing reorders what stands beside it. */
function visible(text) {
  return text.replace(UNSAFE, (char) => {
    const code = char.codePointAt(0);
    const hex = code.toString(16);
    if (char === "\r") return "\\r";
    return code < 0x100 ? `\\x${hex.padStart(2, "0")}` : code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
  });
}

/** Return a picture, sound or film: its type and URL, or why the page does not have it; undefined for others. */
function mediumOf(data, path) {
  const medium = Object.hasOwn(data.media, path) ? data.media[path] : undefined;
  if (medium === undefined || medium.left !== undefined) return medium;
  return { type: medium.type, url: `data:${medium.type};base64,${medium.data}` };
}

/** Put a text on the clipboard, also where the page may not use the clipboard directly. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make("textarea", { "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}
