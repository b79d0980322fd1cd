// Which words of two texts differ.

const MOST_WORDS = 1500; // of a text; longer ones are compared at both ends only
const segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;

/** Split a text into words and what is between them; works for scripts without spaces. */
function wordsOf(text) {
  if (segmenter === null) return text.split(/(\s+|[^\p{L}\p{N}]+)/u).filter(Boolean);
  return Array.from(segmenter.segment(text), (one) => one.segment);
}

/** Return the words of `text`, each with whether `other` lacks it at this place: [[word, differs], …]. */
function differingWords(text, other) {
  const [words, others] = [wordsOf(text), wordsOf(other)];
  let start = 0;
  while (start < words.length && start < others.length && words[start] === others[start]) start++;
  let end = 0;
  while (end < words.length - start && end < others.length - start && words.at(-1 - end) === others.at(-1 - end)) end++;
  const middle = words.slice(start, words.length - end);
  const common = commonWords(middle, others.slice(start, others.length - end));
  return words.map((word, at) => [word, at >= start && at < words.length - end && !common.has(at - start)]);
}

/** Return the places in `words` of a longest sequence that is also in `others`. */
function commonWords(words, others) {
  const found = new Set();
  if (words.length > MOST_WORDS || others.length > MOST_WORDS) return found;
  const width = others.length + 1;
  const lengths = new Uint16Array((words.length + 1) * width);
  for (let i = words.length - 1; i >= 0; i--) {
    for (let j = others.length - 1; j >= 0; j--) {
      lengths[i * width + j] =
        words[i] === others[j]
          ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  for (let i = 0, j = 0; i < words.length && j < others.length; ) {
    if (words[i] === others[j]) {
      found.add(i);
      i++;
      j++;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
    else j++;
  }
  return found;
}
