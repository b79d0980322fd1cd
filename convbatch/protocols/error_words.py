"""Tables of the words by which gateways name the cause of an error, each group with the vendors that use it.

Only data; `error_mapping.py` decides which table counts first. A pattern must name the cause: a message that only
mentions a filter, a key or a limit must not match. Cases are in `tests/protocols/error_cases.jsonl`.

Sources are pages and issues read from 2026-11-21 to 2026-11-27, or the source of the gateway.
"""

from __future__ import annotations

import re

from convbatch.lazy_regex import lazy_regex


def _texts(*patterns: str) -> re.Pattern[str]:
    return lazy_regex("|".join(patterns), re.IGNORECASE)


# --- refusals of the content -----------------------------------------------------------------------------------------

REFUSAL_TEXT = _texts(
    # codes that gateways quote inside a message
    "content_policy_violation",
    "ResponsibleAIPolicyViolation",
    "sensitive_words_detected",
    "prompt_blocked",
    "DataInspectionFailed",
    "data_inspection_failed",
    "PROHIBITED_CONTENT",
    "ContentPolicyViolationError",
    "SAFETY_CHECK_TYPE_",
    "censorship_blocked",
    r"RiskDetection\b",
    "SensitiveContentDetected",
    # Azure, OpenAI, Anthropic
    "content management policy",
    "flagged as potentially violating",
    "rejected (?:as a result of|by) (?:our|the) safety",
    "failed as a result of (?:our|the) safety system",
    "blocked by (?:our |the )?content (?:filter|moderation|policy)",
    r"(?:triggered|violat\w+|against|blocked by) (?:\w+[ '’]*){0,4}(?:content|usage|safety|acceptable use"
    "|moderation|responsible ai) (?:polic|guideline|practice|standard|rule)",
    # Google, Vertex and gateways in front of them
    "request blocked by (?:gemini|google|vertex|upstream|openai|the (?:model|upstream))",
    "(?:prompt|response|input|output|content|request|candidate) (?:was |is |has been |were )?(?:blocked|rejected"
    r"|refused|filtered|flagged)(?: (?:due to|because of|by|for|as) (?:\w+[ '’]*){0,3}(?:safety|prohibited"
    "|sensitive|moderation|harm|policy|content|security|guardrail|unsafe|toxic|violence|risk))",
    "sensitive words that violate",
    # DeepSeek, Moonshot, DashScope, Ark, MiniMax, xAI, StepFun, new-api
    r"content (?:exists risk|risks? (?:\w+ )?detected)",
    "considered high risk",
    "inappropriate content",
    r"may contain (?:\w+ ){0,2}(?:sensitive|violation|violence|inappropriate|harmful|unsafe|illegal)",
    "new_sensitive",
    r"(?:input|output|prompt|text|message|question)s? (?:\w+ ){0,2}(?:contains?|includes?|involves?) (?:\w+ ){0,2}"
    "(?:sensitive|prohibited|disallowed|inappropriate|unsafe|harmful|banned|forbidden|illegal|offensive)",
    "machine outputted is blocked",
    "sensitive words? (?:detected|found|hit)",
    r"(?:unsafe|sensitive|prohibited|disallowed|harmful|nsfw|explicit|illegal) (?:or \w+ )?content (?:\w+ )?"
    "(?:detected|found|in (?:the )?(?:input|prompt|output|generation))",
    "content (?:was |is |has been )?blocked",
    "call blocked by policy",
    # OpenRouter, LiteLLM, Portkey, Bedrock, Llama Guard
    "(?:input|prompt|output|content|message)s? (?:was |were |has been |is )?flagged",
    "requires moderation",
    r"violated (?:\w+ ){0,3}(?:guardrail|safety|content|moderation)",
    r"(?:blocked|intervened|denied) by (?:\w+ ){0,3}guardrail",
    r"guardrails? (?:\w+ ){0,4}(?:blocked|intervened|violat|failed|triggered)",
    "prompt injection detected",
    r"jailbreak (?:\w+ )?detected",
    "moderation (?:check |endpoint )?(?:failed|blocked|rejected|flagged)",
    # one-api and its forks, Zhipu, Baidu, Tencent, iFlytek, Ant
    "敏感(?:词|内容|信息|话题|问题)",
    "不安全或敏感",
    "违禁(?:词|内容)?",
    "违规(?:内容|信息|词|文本)",
    "内容.{0,6}(?:违规|违法)",
    "涉嫌违[规法]",
    "相关法律法规",
    "违反.{0,12}(?:政策|法律|法规|规定|规范|准则)",
    "内容.{0,6}(?:不合规|存在风险|有风险|风险提示)",
    "(?:输入|输出|提问|提示词|文本|内容).{0,10}(?:不合规|风险|不当|不良|敏感|违规|非法)",
    "内容安全",
    "安全(?:审核|检测|策略|拦截)",
    "(?:内容|文本|输入|输出)?审核(?:不|未)通过",
    "(?:触发|命中).{0,10}(?:风控|安全|审核|敏感|拦截|过滤)",
    "不适当的?内容",
)
NOT_A_REFUSAL_TEXT = _texts(
    # about a parameter, a place, an account or a network, not about the content
    "user location",
    "not supported in your (?:country|region)",
    "country, region",
    r"\bip\b(?! (?:polic|infring|right|violat))|白名单|实名|身份认证",
    "(?:服务|接口).{0,4}(?:异常|超时|不可用|未开通|未启用)",
    r"(?:格式|字段|类型|编码|\b(?:role|json|schema|url))\W{0,3}(?:错误|无效|非法|不当|不合法|不正确|有误)",
    "must be enabled|to be enabled|not enabled",
    "unsupported_country",
    r"(?:parameter|param|argument|field|property|key|schema)\b.{0,60}(?:invalid|unknown|unsupported|not (?:support"
    "|permit|allow|recogni)|unrecogni|required|missing|must)",
    r"(?:invalid|unknown|unsupported|unrecogni[sz]ed|missing|unexpected) (?:value for |value: )?[`'\x22]?(?:parameter"
    "|param|argument|field|property|key|safety|content_?filter|moderation|enum|json|name)",
    r"(?:firewall|waf|cors|cloudflare|network|ip address|referr?er|rate limit|data policy)\b",
    "privacy (?:settings?|policy)",
    "(?:illegal|forbidden|invalid|disallowed) (?:characters?|special tokens?)",
    "(?:非法|无效|特殊)字符",
    r"(?:your|this|the) (?:account|organi[sz]ation|team|project|user)\b.{0,40}(?:suspended|banned|disabled"
    "|terminated|deactivated|blocked|restricted)",
    "参数.{0,12}(?:错误|无效|非法|不合法|缺失|有误)",
    "账[号户].{0,16}(?:封|禁|冻结|停用|锁定|异常|限制|风控)",
    "频繁|频率",
    "余额",
    "欠费",
    "令牌",
    "密钥",
)
PROMPT_SIDE_TEXT = _texts(
    r"\b(?:prompts?|inputs?|messages?|requests?|question)\b",
    "输入",
    "提问",
    "提示词",
    "请求",
    "用户",
)
OUTPUT_SIDE_TEXT = _texts(
    r"\b(?:outputs?|responses?|generated|generation|completion|answer|candidate)\b",
    "输出",
    "生成",
    "回复",
    "(?<!无法)回答",
)
ADVICE_TEXT = _texts(
    # what to do about it, which names the prompt whatever was refused; and the ids at the end
    r"(?:please|try|consider)\b.{0,60}(?:modify|rephras|chang|adjust|revis|edit|different|avoid|again|anew)[^.]*",
    r"(?:the |this |your )?request (?:was |is |has been |could not be |failed|id)\w*",
    "请.{0,40}",
    r"\(request id:[^)]*\)",
)

# --- out of money or quota -------------------------------------------------------------------------------------------

QUOTA_TEXT = _texts(
    r"insufficient[ _-](?:\w+[ _-]){0,2}(?:balance|credits?|funds?|quota)\b",
    "credit balance is too low",
    "balance (?:is )?(?:insufficient|not enough|too low|exhausted|depleted|negative)",
    "quota is not enough",
    r"not enough (?:\w+ )?(?:balance|credits?|funds|quota)",
    "(?:credits?|balance) (?:are |is |ha(?:s|ve) been )?(?:depleted|exhausted|used up|has run out)",
    r"out of (?:\w+ )?(?:credits?|funds|quota)",
    r"(?:doesn.t|does not|don.t|do not) have (?:any|enough|sufficient) (?:\w+ )?(?:credits?|balance|funds|quota)",
    "no (?:remaining |available |more )?credits",
    r"used (?:all|up) (?:\w+ ){0,3}(?:credits|quota|balance)",
    r"requires (?:more|at least [\d.$]+) credits",
    "spend(?:ing)?[ _](?:limit|cap)",
    "hard limit has been reached",
    "budget (?:has been )?(?:exceeded|exhausted)",
    "exceeded ?budget",
    "over (?:the |its )?budget",
    r"exceeds? (?:\w+ )?budget",
    r"(?:account|payment|bill)\w* (?:\w+ ){0,3}(?:overdue|in arrears)",
    "is in good standing",
    "payment required",
    r"billing (?:\w+ ){0,3}(?:not active|inactive|disabled|not enabled)",
    "requires billing to be enabled",
    r"free (?:tier|quota|trial|allocation|allowance|credits?) (?:\w+ ){0,4}(?:has been |have been |is |are )?"
    r"(?:exhausted|exceeded|expired|used up|over\b)",
    "free tier of the model has been",
    "daily free allocation",
    r"exhausted (?:your|its|the|their) (?:\w+ ){0,4}(?:quota|credits|balance|capacity)",
    "reached the set inference limit",
    r"(?:subscription|package|plan|trial) (?:\w+ ){0,3}(?:has |is )?expired",
    "exceeded (?:your )?current (?:token )?quota, please check your account",
    "not active, .{0,60}billing",
    "额度不足",
    "余额不足",
    "余额已?(?:用[尽完]|耗尽)",
    "额度(?:已|不足|已经)?(?:被)?(?:用[尽完]|耗尽)",
    "欠费",
    "(?:资源包|套餐|流量包|免费额度).{0,10}(?:耗尽|用[尽完]|不足|到期|过期|失效)",
    "余额为负",
    "剩余额度.{0,12}(?:不足|小于|低于)",
    "预扣费",
)
NOT_A_QUOTA_TEXT = _texts(
    # the budget of a setting, or a parameter with such a name
    r"(?:thinking|reasoning)[ _.-]?budget|budget[ _]tokens",
    r"\b(?:parameter|field|argument|schema)\b.{0,40}\b(?:invalid|must be|required|expired)",
    r"\b(?:invalid|unknown|unsupported|missing) (?:parameter|field|argument|schema)",
)
WEAK_QUOTA_TEXT = _texts(
    r"reached (?:\w+ ){0,5}quota",
    # Also said of a limit per minute (Google): counts only without a hint, a minute, or words of a rate limit.
    r"exceeded (?:your |the )?(?:\w+ ){0,3}quota",
    r"quota (?:\w+ ){0,5}(?:exceeded|exhausted|used up|reached)",
    "check your (?:plan and billing|account balance|billing)",
    r"\b(?:top[- ]?up|recharge)\b",
    "purchase (?:more )?credits",
    "配额.{0,6}(?:超|用[尽完]|耗尽|不足)",
    "充值",
    "续费",
)

# --- limits of a window ----------------------------------------------------------------------------------------------

RATE_TEXT = _texts(
    r"rate[ _-]?limit(?:s|ed)?\b.{0,40}(?:exceed|reach|hit\b)",
    "rate[ -]limited",
    r"(?:exceed|reach|hit)\w* (?:\w+ ){0,4}rate[ _-]?limit",
    r"too many (?:\w+ )?requests",
    r"requests? (?:\w+ ){0,2}throttled",
    "throttling",
    r"requests? (?:\w+ ){0,3}too (?:frequent|quick|fast)",
    r"concurren\w+ (?:\w+ ){0,4}(?:exceed|limit|too high)",
    r"exceed\w* (?:\w+ ){0,4}concurren",
    r"\b(?:qps|qpm|rpm|tpm)\b.{0,24}(?:limit|exceed|reached)",
    r"(?:limit|exceed|reached).{0,24}\b(?:qps|qpm|rpm|tpm)\b",
    "请求.{0,10}(?:频繁|过快|超限)",
    "频率.{0,6}(?:超|过高|限制|触发)",
    "限流",
    "限速",
    "并发.{0,12}(?:超|过高|限制|上限)",
    "速率.{0,6}(?:限制|超)",
    "访问量过大",
    "请求数限制",
    # a window of hours, days or a plan's period; without a date it is a quota
    "usage limit",
    r"daily (?:\w+ ){0,3}limit",
    "使用上限",
    "用量上限",
    "次数.{0,6}(?:上限|用[尽完])",
)
DAY_TEXT = _texts(
    "per[ _-]?day",
    r"\brpd\b",
    r"\bdaily (?:\w+ ){0,3}(?:limit|quota)",
    "usage limit",
    "billing cycle",
    r"(?:weekly|monthly|hourly|\b\d+[- ]?h(?:ou)?rs?) (?:\w+ ){0,2}(?:limit|quota)",
    "每天",
    "每日",
    "当[日天]",
    "今[日天].{0,12}(?:上限|用[尽完])",
    "日(?:限额|调用|请求)",
    "使用上限",
    "用量上限",
    "每[周月].{0,8}(?:上限|限额|额度)",
)
MONTH_TEXT = _texts(r"\bmonthly\b", r"\bper[ _-]?month\b", "每月", "[当本]月")
MINUTE_TEXT = _texts(
    "per[ _-]?(?:min|sec)",
    # Vertex names its metrics after what a minute's requests have in common
    "(?:requests|tokens)_per_(?!day)",
    "每秒",
    r"\b[rt]pm\b",
    "分钟内",
    "每分钟",
)

# --- the model, the path, the key, the length, the load --------------------------------------------------------------

NO_CHANNEL_TEXT = _texts(
    "无可用渠道",
    r"no available channels?\b",
    "没有可用的?渠道",
)
_MODEL_NAME = (
    r"\bmodels?(?! (?:output|response|reply|result|input|generation|setting|param|config"
    r"|produc|generat|return))"
    r"(?: (?:name|id|code|identifier))?[\s:=]*[`'\"\[<(]?[\w./:@|+~-]{0,100}[`'\"\]>)]?[\s,:]*"
)
_GONE = (
    r"(?:(?:is|was|are|has been|have been|does|do|did|could|can|currently)\s*){0,3}(?:not (?:exists?|found|available|"
    r"supported|valid|a valid|be found|activated|deployed|loaded|accessible|open|installed|recogni[sz]ed)|n't exist"
    r"|n.t be found|discontinued|invalid\b|disabled|deprecated|decommissioned|retired|no longer (?:available|supported)"
    r"|cannot be found)"
)
NO_MODEL_TEXT = _texts(
    rf"{_MODEL_NAME}{_GONE}(?!.{{0,3}} (?:for|with|by|in) (?:this|the) (?:parameter|setting|tool))"
    r"(?!.{0,30}\b(?:region|country|location)\b)",
    # LiteLLM, Mistral, OpenRouter, Together, LM Studio, Cloudflare, Azure
    r"(?:not a valid|invalid|unknown|unrecogni[sz]ed|unsupported|no such|non-?existent) model\b"
    r"(?! (?:parameter|setting|config|output|response|behaviou?r|argument|type))",
    r"unable to access (?:\w+ ){0,2}model",
    r"no models? (?:\w+ )?loaded",
    "no endpoints found",
    "no allowed providers",
    r"(?:deployment|endpoint|engine)\b.{0,60}(?:does not exist|not found|doesn.t exist)",
    r"not the name of an? \w*model",
    "(?:no|not have) access to (?:the )?model",
    "(?:not found the|could not find|can.t find) model",
    "(?:未找到|找不到).{0,3}模型",
    "模型.{0,24}(?:不存在|未找到|找不到|不可用|已?下[线架]|未开通|没有开通)",
    "(?:不存在|未知|无效|不支持)(?:的|该|此)?.{0,2}模型(?!参数|输出)",
    "模型名称?.{0,4}(?:错误|无效|有误|不正确)",
)
OTHER_OBJECT_TEXT = _texts(
    # what one request refers to; not a function, which is what NVIDIA calls a model
    r"\b(?:file|tool|image|document|response|conversation|cached ?content)s?\b.{0,60}(?:not found|n.t exist|not exist)",
    r"\bitems? with id\b.{0,80}not found",  # of the history of a response
    r"no such (?:file|tool|image|document|response|conversation)",
)
NOT_NOW_TEXT = _texts(
    # a model that exists, but does not answer for the moment
    "right now",
    "at (?:the|this) (?:moment|time)",
    "(?:try|retry)(?: again)? (?:later|shortly|in a)",
    "temporar",
    "currently (?:loading|starting)",
    "稍后|暂时",
)
PATH_TEXT = _texts(
    # the server has no such path: no model was named or asked
    "page not found",
    r"invalid url \(",
    "cannot (?:post|get) /",
    "unexpected endpoint",
    r"no (?:such )?routes?\b",
    "no static resource",
    "no handler found",
    r"(?:route|url|path|endpoint|uri)\b.{0,80}(?:was )?not found",
    "unknown (?:request )?(?:url|path|endpoint|route)",
    "unrecognized request url",
    r"^\W*(?:404\W*)?(?:resource )?not found\W*$",
    r"^\W*(?:405\W*)?method not allowed\W*$",
    "the requested url",
)
KEY_TEXT = _texts(
    r"api[ _-]?key (?:\w+ ){0,3}(?:leaked|compromised)",
    r"\btoken (?:has |is )?(?:expired|invalid)\b",
    r"api[ _-]?keys? (?:\w+ ){0,2}?(?:not valid|invalid|expired|revoked|disabled|not found|not exist|missing)",
    r"(?:incorrect|invalid|wrong|bad|missing|expired|revoked|malformed|unknown|no|not a valid) (?:\w+ ){0,2}"
    "(?:api[ _-]?key|access[ _-]?token|auth(?:entication|orization)? (?:token|header|key)|credentials?"
    "|bearer token|token passed)",
    r"\b(?:invalid|expired) token\b(?!:? (?:id|count|limit|in|at|unexpected|[<`'\"]))",
    "authentication (?:fail|error)",
    "no connected db",
    "login fail",
    r"auth(?:orization)? (?:\w+ )?no license",
    "AppIdNoAuth",
    "NoAuthError",
    "api[ _-]?key.{0,40}is invalid",
    r"^\W*unauthori[sz]ed\W*$",
    r"(?:account|organi[sz]ation|consumer|project|api[ _-]?key|user)\b.{0,60}(?:deactivated|suspended|banned"
    "|terminated|has been (?:disabled|blocked|deleted))",
    "access terminated",
    "无效的(?:令牌|api)",
    "令牌(?:已|状态|不|无|被)?.{0,4}(?:过期|不可用|禁用|无效|删除|失效)",
    "未提供令牌",
    "(?:鉴权|认证|身份验证).{0,3}(?:失败|错误)",
    "api[ _-]?key.{0,6}(?:无效|错误|过期|不存在|不正确|失效)",
    "密钥.{0,4}(?:无效|错误|过期|失效)",
    "账[号户].{0,16}(?:封禁|冻结|停用|禁用|锁定|注销)",
    "验证不正确",
)
LENGTH_TEXT = _texts(
    # any server
    r"(?:input|prompt|total|number of input)[ _]tokens?\b.{0,40}exceed",
    "token limit exceeded",
    "(?:conversation|messages?|dialogue) (?:is |are )?too long",
    "(?:shorten|reduce|trim) (?:your|the) (?:prompt|input|messages|conversation)",
    r"max_(?:num|input)_tokens",
    "tokens in (?:the |your )?request (?:more than|exceed)",
    r"limited to \d+ tokens,? (?:but )?you requested",
    "总?长度.{0,6}(?:超|过长)",
    "tokens?.{0,6}超[过出].{0,8}(?:限制|上限|最大)",
    # OpenAI, OpenRouter, vLLM, Fireworks, Mistral, llama.cpp, LM Studio, Ollama
    "(?:maximum|max|available|model.s) (?:context|model) (?:length|size|window|limit)",
    "exceeds? (?:the |max )?(?:model.s )?context",
    "context (?:length|window|size) (?:is|of) only",
    r"context (?:length|window|size) (?:\w+ ){0,2}exceed",
    "context (?:the )?overflow",
    "greater than the context length",
    r"exceed(?:s|ed)? (?:\w+ )?context limit",
    r"larger than the max\w* context",
    "longer than the (?:model.s |maximum )(?:context|model|input)",
    "prompt (?:is )?too long",
    "exceeded max context",
    "too large for (?:the )?model with",
    "prompts? exceeds? (?:the )?(?:max|length)",
    "context_length_exceeded",
    "ContextWindowExceeded",
    # Google, Bedrock, Kimi, xAI, Groq, Cerebras, Cohere, Copilot, SiliconFlow, GitHub Models, Together
    "input token count.{0,60}(?:exceeds|but model only)",
    "input is too long",
    "exceeded model token limit",
    "maximum prompt length",
    "reduce the length of (?:the|your) (?:messages|prompt|input)",
    "current length is.{0,40}limit is",
    "too many (?:input )?tokens(?!.{0,40}(?:wait|try again|per))",
    "prompt token count.{0,40}exceeds",
    "prompt_tokens.{0,30}must be less than",
    "request body too large for",
    "input (?:sequence )?length.{0,60}(?:exceed|should|longer)",
    r"maximum input (?:length|len)\b",
    "tokens?_limit_reached",
    r"(?:(?:messages|input|prompt|contents?|instructions)[\w.\[\]]*'?: |^\W*)string too long\. expected a string",
    "input tokens exceed",
    # sglang, TGI, TensorRT-LLM, DashScope, Ark, Qianfan, Spark, MiniMax
    "requested token count exceeds",
    r"`?inputs`? (?:tokens \+|must have less than)",
    "message token length exceed",
    "max message tokens",
    "prompt tokens? too long",
    "tokens? count exceeds? limit",
    "max input characters",
    "total tokens of .{0,40}exceed",
    r"length of (?:the )?(?:input|prompt|messages)\b.{0,40}(?:exceed|too long|larger)",
    "prompt.{0,3}超长",
    "上下文.{0,8}(?:过长|超)",
    "(?:输入|文本|消息|内容|提示词).{0,8}(?:过长|超长)",
    "(?:超[过出]|大于).{0,12}(?:上下文|最大长度|长度限制|最大输入|输入长度)",
    "tokens?.{0,6}(?:超限|过长|超出上限)",
)
NOT_A_LENGTH_TEXT = _texts(
    r"\b(?:daily|monthly|quota)\b",
    "max_(?:completion_|output_)?tokens.{0,6}(?:超|不能|必须|应)",
    # a limit per minute, or a setting
    "tokens? per (?:min|day|hour)",
    r"\btpm\b",
    "rate[ _-]?limit",
    r"\brange of max_(?:completion_)?tokens",
    "invalid '?user'?",
    r"(?<!\+ .)\bmax_(?:completion_|output_|new_)?tokens\b.{0,30}(?:must be|should be|cannot exceed|less than"
    "|greater than|at most|supports at most)",
)
TOO_MUCH_ASKED = lazy_regex(r"\((\d{1,12}) > (\d{1,12}) - \d{1,12}\)")
"""vLLM: the requested output against the window less the input; a larger request than the window is a setting."""
BUSY_TEXT = _texts(
    "overload",
    r"(?:server|service|system|model|engine)s? (?:\w+ ){0,4}(?:busy|at capacity|under (?:heavy|high) load)",
    "at capacity",
    "high (?:load|demand|traffic)",
    "temporarily (?:unavailable|unable)",
    "(?:currently|is) unavailable",
    "capacity exceeded",
    "繁忙",
    "负载.{0,6}(?:饱和|过高|较高)",
    "稍后(?:再试|重试)",
    "暂时不可用",
    "服务不可用",
)
