"""Tables of the codes and words by which gateways name an error, each group with the vendor that uses it.

Only data. `error_bodies.py` finds codes and text in a body, `error_mapping.py` decides which table counts first. A code
in the tables is written as the vendor writes it and compared without case, `_`, `-` and spaces (`plain`). A text
pattern must name the cause: a message that only mentions a filter, a key or a limit must not match.

Sources are pages and issues read from 2026-11-21 to 2026-11-27, or the source of the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from convbatch.reply import ErrorKind

Vendor = Literal["minimax", "zhipu", "spark", "baidu", "siliconflow", "cloudflare"]
"""Vendors whose errors are numbers; the same number means another thing at another vendor."""

_PUNCTUATION = re.compile(r"[\s_-]+")


def plain(code: str) -> str:
    """Return a code in the form in which the tables compare it."""
    return _PUNCTUATION.sub("", code).lower()


def _texts(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


def _codes(*groups: str) -> frozenset[str]:
    return frozenset(plain(code) for group in groups for code in group.split())


def _kinds(groups: Mapping[ErrorKind, str]) -> dict[str, ErrorKind]:
    return {plain(code): kind for kind, codes in groups.items() for code in codes.split()}


# --- refusals of the content -----------------------------------------------------------------------------------------

REFUSAL_CODES = _codes(
    # Azure and OpenAI, https://platform.openai.com/docs/guides/error-codes; Moonshot has the first as type
    "content_filter content_policy_violation ResponsibleAIPolicyViolation invalid_prompt moderation_blocked"
    " bio_policy cyber_policy cyber_policy_violation image_content_policy_violation policy_violation safety_violation",
    # new-api types/error.go and relay/channel/gemini, https://github.com/QuantumNous/new-api
    "prompt_blocked sensitive_words_detected violation_fee violation_fee.grok.csam content_violation",
    # Google finish and block reasons, which gateways copy into `code`
    "SAFETY PROHIBITED_CONTENT BLOCKLIST SPII RECITATION IMAGE_SAFETY RESPONSIBLE_AI",
    # https://www.alibabacloud.com/help/en/model-studio/error-code
    "DataInspectionFailed data_inspection_failed DataInspection",
    # https://www.volcengine.com/docs/82379/1299023; its other forms are in REFUSAL_CODE_FORMS
    "SensitiveContentDetected",
    # StepFun (HTTP 451), Tencent, Huawei ModelArts, LiteLLM, Portkey, Helicone, Anthropic's category names
    "censorship_blocked OperationDenied.TextIllegalDetected OperationDenied.ImageIllegalDetected ModelArts.81011"
    " ContentPolicyViolationError guardrail_violation guardrail_intervened hooks_failed PROMPT_THREAT_DETECTED"
    " content_blocked content_moderation moderation_failed sensitive flagged",
)
REFUSAL_CODE_FORMS = re.compile(
    r"(?:input|output)(?:text|image|video|audio)?(?:sensitivecontentdetected|riskdetection)"
)
"""Volcengine Ark: the refused side and medium are part of the code."""

REFUSAL_TEXT = _texts(
    # codes that gateways quote inside a message
    r"content_policy_violation|ResponsibleAIPolicyViolation|sensitive_words_detected|prompt_blocked"
    r"|DataInspectionFailed|data_inspection_failed|PROHIBITED_CONTENT|ContentPolicyViolationError"
    r"|SAFETY_CHECK_TYPE_|censorship_blocked|RiskDetection\b|SensitiveContentDetected",
    # Azure, OpenAI, Anthropic
    r"content management policy|flagged as potentially violating|rejected (?:as a result of|by) (?:our|the) safety"
    r"|failed as a result of (?:our|the) safety system|blocked by (?:our |the )?content (?:filter|moderation|policy)"
    r"|(?:triggered|violat\w+|against|blocked by) (?:\w+[ '’]*){0,4}"
    r"(?:content|usage|safety|acceptable use|moderation|responsible ai) (?:polic|guideline|practice|standard|rule)",
    # Google, Vertex and gateways in front of them
    r"request blocked by (?:gemini|google|vertex|upstream|openai|the (?:model|upstream))"
    r"|(?:prompt|response|input|output|content|request|candidate) (?:was |is |has been |were )?"
    r"(?:blocked|rejected|refused|filtered|flagged)"
    r"(?: (?:due to|because of|by|for|as) (?:\w+[ '’]*){0,3}"
    r"(?:safety|prohibited|sensitive|moderation|harm|policy|content|security|guardrail|unsafe|toxic|violence|risk))"
    r"|sensitive words that violate",
    # DeepSeek, Moonshot, DashScope, Ark, MiniMax, xAI, StepFun, new-api
    r"content exists risk|considered high risk|inappropriate content|may contain (?:\w+ ){0,2}(?:sensitive|violation"
    r"|violence|inappropriate|harmful|unsafe|illegal)|new_sensitive|(?:input|output|prompt|text|message)s? (?:\w+ ){0,2}"
    r"(?:contains?|includes?) (?:\w+ ){0,2}(?:sensitive|prohibited|inappropriate|unsafe|harmful|banned|forbidden"
    r"|illegal|offensive)|machine outputted is blocked|sensitive words? (?:detected|found|hit)",
    # OpenRouter, LiteLLM, Portkey, Bedrock, Llama Guard
    r"(?:input|prompt|output|content|message)s? (?:was |were |has been |is )?flagged|requires moderation"
    r"|violated (?:\w+ ){0,3}(?:guardrail|safety|content|moderation)|(?:blocked|intervened|denied) by (?:\w+ ){0,3}"
    r"guardrail|guardrails? (?:\w+ ){0,4}(?:blocked|intervened|violat|failed|triggered)|prompt injection detected"
    r"|jailbreak (?:\w+ )?detected|moderation (?:check |endpoint )?(?:failed|blocked|rejected|flagged)",
    # one-api and its forks, Zhipu, Baidu, Tencent, iFlytek, Ant
    r"敏感(?:词|内容|信息|话题|问题)|不安全或敏感|违禁(?:词|内容)?|违规(?:内容|信息|词|文本)|内容.{0,6}(?:违规|违法)|涉嫌违[规法]"
    r"|违反.{0,12}(?:政策|法律|法规|规定|规范|准则)|内容.{0,6}(?:不合规|存在风险|有风险|风险提示)|(?:输入|输出|提问|提示词|文本|内容).{0,10}"
    r"(?:不合规|风险|不当|不良|敏感|违规|非法)|内容安全|安全(?:审核|检测|策略|拦截)|(?:内容|文本|输入|输出)?审核(?:不|未)通过"
    r"|(?:触发|命中).{0,10}(?:风控|安全|审核|敏感|拦截|过滤)|不适当的?内容",
)  # fmt: skip
NOT_A_REFUSAL_TEXT = _texts(
    # about a parameter, a place, an account or a network, not about the content
    r"user location|not supported in your (?:country|region)|country, region|unsupported_country"
    r"|(?:parameter|param|argument|field|property|key|schema)\b.{0,60}(?:invalid|unknown|unsupported|not (?:support|permit"
    r"|allow|recogni)|unrecogni|required|missing|must)"
    r"|(?:invalid|unknown|unsupported|unrecogni[sz]ed|missing|unexpected) (?:value for |value: )?[`'\"]?"
    r"(?:parameter|param|argument|field|property|key|safety|content_?filter|moderation|enum|json|name)"
    r"|(?:firewall|waf|cors|cloudflare|network|ip address|referr?er|rate limit|data policy|privacy)\b"
    r"|(?:your|this|the) (?:account|organi[sz]ation|team|project|user)\b.{0,40}(?:suspended|banned|disabled|terminated"
    r"|deactivated|blocked|restricted)|参数.{0,12}(?:错误|无效|非法|不合法|缺失|有误)|账[号户].{0,16}(?:封|禁|冻结|停用|锁定|异常)"
    r"|频繁|余额|欠费|令牌|密钥",
)  # fmt: skip
PROMPT_SIDE_TEXT = _texts(r"\b(?:prompts?|inputs?|messages?|requests?|question)\b|输入|提问|提示词|请求|用户")
OUTPUT_SIDE_TEXT = _texts(
    r"\b(?:outputs?|responses?|generated|generation|completion|answer|candidate)\b|输出|生成|回复|回答"
)
ADVICE_TEXT = _texts(
    # what to do about it, which names the prompt whatever was refused; and the ids at the end
    r"(?:please|try|consider)\b.{0,60}(?:modify|rephras|chang|adjust|revis|edit|different|avoid|again|anew)[^.]*"
    r"|(?:the |this |your )?request (?:was |is |has been |could not be |failed|id)\w*|请.{0,40}|\(request id:[^)]*\)"
)

# --- out of money or quota -------------------------------------------------------------------------------------------

QUOTA_CODES = _codes(
    # https://platform.openai.com/docs/guides/error-codes
    "insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded project_spend_limit_exceeded"
    " organization_usage_limit_exceeded billing_hard_limit_reached billing_not_active",
    # https://github.com/QuantumNous/new-api types/error.go, https://github.com/songquanpeng/one-api, sub2api
    "insufficient_user_quota pre_consume_token_quota_failed insufficient_token_quota INSUFFICIENT_BALANCE"
    " insufficient_balance_error insufficient_credits free_quota_exceeded quota_exhausted not_enough_credits",
    # https://docs.anthropic.com/en/api/errors
    "billing_error enforced_spend_limit_reached contract_spend_limit_reached"
    " linked_organization_spend_limit_reached linked_organization_billing_unavailable",
    # https://www.alibabacloud.com/help/en/model-studio/error-code
    "arrearage allocationquota.freetieronly prepaidbilloverdue postpaidbilloverdue CommodityNotPurchased",
    # google.rpc.ErrorInfo reasons, https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto
    "billing_disabled",
    # https://www.volcengine.com/docs/82379/1299023
    "AccountOverdueError SetLimitExceeded QuotaExceeded OperationDenied.ServiceOverdue",
    # https://platform.moonshot.cn/docs/api/errors
    "exceeded_current_quota_error",
    # LiteLLM proxy, https://docs.litellm.ai/docs/proxy/users
    "budget_exceeded ExceededBudget ExceededTokenBudget",
    # https://cloud.tencent.com/document/product/1729/101843
    "ResourceInsufficient ResourceUnavailable.InArrears FailedOperation.ResourcePackExhausted"
    " FailedOperation.FreeResourcePackExhausted FailedOperation.ServiceStopArrears FailedOperation.SetPayModeExceed",
    # Qianfan v2, Huawei ModelArts, GitHub, Cohere, AWS
    "account_overdue insufficient_account_balance ModelArts.81005 billing_limit_reached ServiceQuotaExceededException",
)
QUOTA_TEXT = _texts(
    r"insufficient[ _-](?:\w+[ _-]){0,2}(?:balance|credits?|funds?|quota)\b|credit balance is too low"
    r"|balance (?:is )?(?:insufficient|not enough|too low|exhausted|depleted|negative)|quota is not enough"
    r"|not enough (?:\w+ )?(?:balance|credits?|funds|quota)|(?:credits?|balance) (?:are |is |ha(?:s|ve) been )?"
    r"(?:depleted|exhausted|used up|has run out)|out of (?:\w+ )?(?:credits?|funds|quota)"
    r"|(?:doesn.t|does not|don.t|do not) have (?:any|enough|sufficient) (?:\w+ )?(?:credits?|balance|funds|quota)"
    r"|no (?:remaining |available |more )?credits|used (?:all|up) (?:\w+ ){0,3}(?:credits|quota|balance)"
    r"|requires (?:more|at least [\d.$]+) credits|spend(?:ing)?[ _](?:limit|cap)|hard limit has been reached"
    r"|budget (?:has been )?(?:exceeded|exhausted)|exceeded ?budget|over (?:the |its )?budget|exceeds? (?:\w+ )?budget"
    r"|(?:account|payment|bill)\w* (?:\w+ ){0,3}(?:overdue|in arrears)|is in good standing|payment required"
    r"|billing (?:\w+ ){0,3}(?:not active|inactive|disabled|not enabled)|requires billing to be enabled"
    r"|free (?:tier|quota|trial|allocation|allowance|credits?) (?:\w+ ){0,4}(?:has been |have been |is |are )?"
    r"(?:exhausted|exceeded|expired|used up|over\b)|free tier of the model has been|daily free allocation"
    r"|exhausted (?:your|its|the|their) (?:\w+ ){0,4}(?:quota|credits|balance|capacity)|reached the set inference limit"
    r"|(?:subscription|package|plan|trial) (?:\w+ ){0,3}(?:has |is )?expired|exceeded (?:your )?current (?:token )?quota,"
    r" please check your account|not active, .{0,60}billing",
    r"额度不足|余额不足|余额已?(?:用[尽完]|耗尽)|额度(?:已|不足|已经)?(?:被)?(?:用[尽完]|耗尽)|欠费|(?:资源包|套餐|流量包|免费额度)"
    r".{0,10}(?:耗尽|用[尽完]|不足|到期|过期|失效)|余额为负|剩余额度.{0,12}(?:不足|小于|低于)|预扣费",
)  # fmt: skip
WEAK_QUOTA_TEXT = _texts(
    # Also said of a limit per minute (Google): counts only without a hint, a minute, or words of a rate limit.
    r"exceeded (?:your |the )?(?:\w+ ){0,3}quota|quota (?:\w+ ){0,3}(?:exceeded|exhausted|used up|reached)"
    r"|check your (?:plan and billing|account balance|billing)|\b(?:top[- ]?up|recharge)\b|purchase (?:more )?credits"
    r"|配额.{0,6}(?:超|用[尽完]|耗尽|不足)|充值|续费",
)

# --- limits of a window ----------------------------------------------------------------------------------------------

RATE_TEXT = _texts(
    r"rate[ _-]?limit(?:s|ed)?\b.{0,40}(?:exceed|reach|hit\b)|rate[ -]limited|(?:exceed|reach|hit)\w* (?:\w+ ){0,4}rate"
    r"[ _-]?limit|too many (?:\w+ )?requests|requests? (?:\w+ ){0,2}throttled|throttling|requests? (?:\w+ ){0,3}too"
    r" (?:frequent|quick|fast)|concurren\w+ (?:\w+ ){0,4}(?:exceed|limit|too high)|exceed\w* (?:\w+ ){0,4}concurren"
    r"|\b(?:qps|qpm|rpm|tpm)\b.{0,24}(?:limit|exceed|reached)|(?:limit|exceed|reached).{0,24}\b(?:qps|qpm|rpm|tpm)\b"
    r"|请求.{0,10}(?:频繁|过快|超限)|频率.{0,6}(?:超|过高|限制)|限流|限速|并发.{0,12}(?:超|过高|限制|上限)|速率.{0,6}(?:限制|超)"
    r"|访问量过大|请求数限制",
    # a window of hours, days or a plan's period; without a date it is a quota
    r"usage limit|daily (?:\w+ ){0,3}limit|使用上限|用量上限|次数.{0,6}(?:上限|用[尽完])",
)
DAY_TEXT = _texts(
    r"per[ _-]?day|\brpd\b|\bdaily (?:\w+ ){0,3}(?:limit|quota)|usage limit|billing cycle"
    r"|(?:weekly|monthly|hourly|\b\d+[- ]?h(?:ou)?rs?) (?:\w+ ){0,2}(?:limit|quota)|每天|每日|当[日天]|今[日天].{0,12}(?:上限|用[尽完])"
    r"|日(?:限额|调用|请求)|使用上限|用量上限|每[周月].{0,8}(?:上限|限额|额度)",
)
MINUTE_TEXT = _texts(r"per[ _-]?min|\b[rt]pm\b|分钟内|每分钟")

# --- the model, the path, the key, the length, the load --------------------------------------------------------------

NO_CHANNEL_TEXT = _texts(r"无可用渠道|no available channels?\b|没有可用的?渠道")
_MODEL_NAME = r"\bmodels?(?: (?:name|id|code|identifier))?[\s:=]*[`'\"\[<(]?[\w./:@|+~-]{0,100}[`'\"\]>)]?[\s,:]*"
_GONE = (
    r"(?:(?:is|was|are|has been|have been|does|do|did|could|can|currently)\s*){0,3}(?:not (?:exists?|found|available|"
    r"supported|valid|a valid|be found|activated|deployed|loaded|accessible|open|installed|recogni[sz]ed)|n't exist|n.t be"
    r" found|invalid\b|disabled|deprecated|decommissioned|retired|no longer (?:available|supported)|cannot be found)"
)
NO_MODEL_TEXT = _texts(
    rf"{_MODEL_NAME}{_GONE}(?!.{{0,3}} (?:for|with|by|in) (?:this|the) (?:parameter|setting|tool))",
    # LiteLLM, Mistral, OpenRouter, Together, LM Studio, Cloudflare, Azure
    r"(?:not a valid|invalid|unknown|unrecogni[sz]ed|unsupported|no such|non-?existent) model\b"
    r"(?! (?:parameter|setting|config|output|response|behaviou?r|argument|type))"
    r"|unable to access (?:\w+ ){0,2}model|no models? (?:\w+ )?loaded|no endpoints found|no allowed providers"
    r"|(?:deployment|endpoint|engine)\b.{0,60}(?:does not exist|not found|doesn.t exist)|not the name of an? \w*model"
    r"|no access to (?:the )?model|not have access to (?:the )?model|not found the model",
    r"模型.{0,24}(?:不存在|未找到|找不到|不可用|已?下[线架]|未开通|没有开通)|(?:不存在|未知|无效|不支持)(?:的|该|此)?.{0,2}模型"
    r"|模型名称?.{0,4}(?:错误|无效|有误|不正确)",
)  # fmt: skip
PATH_TEXT = _texts(
    # the server has no such path: no model was named or asked
    r"\b404 page not found|invalid url \(|cannot (?:post|get) /|unexpected endpoint|no route(?:s)? (?:matched|found)"
    r"|no static resource|no handler found|(?:route|url|path|endpoint|uri)\b.{0,80}(?:was )?not found|unknown (?:request )?"
    r"(?:url|path|endpoint|route)|unrecognized request url|^\W*(?:404\W*)?(?:resource )?not found\W*$"
    r"|^\W*(?:405\W*)?method not allowed\W*$|the requested url",
)
KEY_TEXT = _texts(
    r"api[ _-]?keys? (?:\w+ ){0,2}?(?:not valid|invalid|expired|revoked|disabled|not found|not exist|missing)"
    r"|(?:incorrect|invalid|wrong|bad|missing|expired|revoked|malformed|unknown|no|not a valid) (?:\w+ ){0,2}(?:api[ _-]?key"
    r"|access[ _-]?token|auth(?:entication|orization)? (?:token|header|key)|credentials?|bearer token|token passed)"
    r"|\b(?:invalid|expired) token\b(?! (?:id|count|limit|in))|authentication (?:fail|error)|no connected db|login fail"
    r"|auth(?:orization)? (?:\w+ )?no license|AppIdNoAuth|NoAuthError|api[ _-]?key.{0,40}is invalid|^\W*unauthori[sz]ed\W*$"
    r"|(?:account|organi[sz]ation|consumer|project|api[ _-]?key|user)\b.{0,60}(?:deactivated|suspended|banned|terminated"
    r"|has been (?:disabled|blocked|deleted))|access terminated",
    r"无效的(?:令牌|api)|令牌(?:已|状态|不|无|被)?.{0,4}(?:过期|不可用|禁用|无效|删除|失效)|未提供令牌|(?:鉴权|认证|身份验证).{0,3}(?:失败|错误)"
    r"|api[ _-]?key.{0,6}(?:无效|错误|过期|不存在|不正确|失效)|密钥.{0,4}(?:无效|错误|过期|失效)|账[号户].{0,16}(?:封禁|冻结|停用|禁用|锁定|注销)"
    r"|验证不正确",
)  # fmt: skip
LENGTH_TEXT = _texts(
    # OpenAI, OpenRouter, vLLM, Fireworks, Mistral, llama.cpp, LM Studio, Ollama
    r"(?:maximum|max|available|model.s) (?:context|model) (?:length|size|window|limit)|exceeds? (?:the |max )?(?:model.s )?"
    r"context|context (?:length|window|size) (?:is|of) only|context (?:length|window|size) (?:\w+ ){0,2}exceed"
    r"|context (?:the )?overflow|greater than the context length|exceed(?:s|ed)? (?:\w+ )?context limit"
    r"|larger than the max\w* context|longer than the (?:model.s |maximum )(?:context|model|input)|prompt (?:is )?too long"
    r"|exceeded max context|too large for (?:the )?model with|prompts? exceeds? (?:the )?(?:max|length)|context_length_exceeded|ContextWindowExceeded",
    # Google, Bedrock, Kimi, xAI, Groq, Cerebras, Cohere, Copilot, SiliconFlow, GitHub Models, Together
    r"input token count.{0,60}(?:exceeds|but model only)|input is too long|exceeded model token limit|maximum prompt length"
    r"|reduce the length of (?:the|your) (?:messages|prompt|input)|current length is.{0,40}limit is|too many (?:input )?tokens"
    r"(?!.{0,40}(?:wait|try again|per))|prompt token count.{0,40}exceeds|prompt_tokens.{0,30}must be less than"
    r"|request body too large for|input (?:sequence )?length.{0,60}(?:exceed|should|longer)|maximum input (?:length|len)\b"
    r"|tokens?_limit_reached|string too long\. expected a string with maximum length|input tokens exceed",
    # sglang, TGI, TensorRT-LLM, DashScope, Ark, Qianfan, Spark, MiniMax
    r"requested token count exceeds|`?inputs`? (?:tokens \+|must have less than)|message token length exceed|max message tokens"
    r"|prompt tokens? too long|tokens? count exceeds? limit|max input characters|total tokens of .{0,40}exceed"
    r"|length of (?:the )?(?:input|prompt|messages)\b.{0,40}(?:exceed|too long|larger)",
    r"prompt.{0,3}超长|上下文.{0,8}(?:过长|超)|(?:输入|文本|消息|内容|提示词).{0,8}(?:过长|超长)|(?:超[过出]|大于).{0,12}(?:上下文|最大长度|长度限制"
    r"|最大输入|输入长度)|tokens?.{0,6}(?:超限|过长|超出上限)",
)  # fmt: skip
NOT_A_LENGTH_TEXT = _texts(
    # a limit per minute, or a setting
    r"tokens? per (?:min|day|hour)|\btpm\b|rate[ _-]?limit|\brange of max_(?:completion_)?tokens"
    r"|invalid '?user'?|(?<!\+ .)\bmax_(?:completion_|output_|new_)?tokens\b.{0,30}(?:must be|should be|cannot exceed|less than"
    r"|greater than|at most|supports at most)",
)
TOO_MUCH_ASKED = re.compile(r"\((\d{1,12}) > (\d{1,12}) - \d{1,12}\)")
"""vLLM: the requested output against the window less the input; a larger request than the window is a setting."""
BUSY_TEXT = _texts(
    r"overload|(?:server|service|system|model|engine)s? (?:\w+ ){0,4}(?:busy|at capacity|under (?:heavy|high) load)|at capacity"
    r"|high (?:load|demand|traffic)|temporarily (?:unavailable|unable)|(?:currently|is) unavailable|capacity exceeded"
    r"|繁忙|负载.{0,6}(?:饱和|过高|较高)|稍后(?:再试|重试)|暂时不可用|服务不可用",
)

# --- codes with one meaning ------------------------------------------------------------------------------------------

CODE_KINDS: Mapping[str, ErrorKind] = _kinds(
    {
        "auth": (
            # Google, OpenAI, new-api, DashScope, xAI
            "api_key_invalid api_key_expired invalid_api_key account_deactivated incorrect_api_key_error"
            " CONSUMER_SUSPENDED access_token_expired INVALID_API_KEY api_key_required token_expired invalid_key"
            # Ark, Tencent, AWS, Azure, Qianfan v2, LiteLLM, Moonshot, Huawei
            " AuthenticationError AuthFailure UnrecognizedClientException ExpiredTokenException MissingAuthenticationToken"
            " MissingAuthenticationTokenException InvalidSignatureException IncompleteSignature invalid_iam_token"
            " iam_auth_error auth_error no_db_connection token_not_found_in_db expired_key key_blocked invalid_authentication"
            " invalid_authentication_error access_terminated_error ModelArts.81002 ModelArts.81003 PermissionDenied.Expired"
        ),
        "permission": (
            "service_disabled api_key_service_blocked model.accessdenied UnauthorizedOperation no_permission"
            " key_model_access_denied team_model_access_denied user_model_access_denied unsupported_country_region_territory"
            " OperationDenied.ServiceNotOpen FailedOperation.ServiceNotActivated FailedOperation.UserUnAuthError"
            " ModelArts.81004 access_not_configured"
        ),
        "not_found": (
            "model_not_found api_not_implemented ModelNotFound ModelNotOpen InvalidEndpointOrModel InvalidEndpoint"
            " UnsupportedModel DeploymentNotFound InvalidParameterValue.Model invalid_model model_not_exist model_not_supported"
            " unknown_model resource_not_found_error resource_not_found model_decommissioned model_disabled ModelArts.81009"
            " model_not_available ResourceNotFoundException model_not_exists"
        ),
        "rate_limit": (
            "rate_limit_exceeded slow_down too_many_requests throttling limit_requests limit_burst_rate"
            # Ark, Tencent, AWS, Qianfan v2, Moonshot, Huawei
            " RateLimitExceeded ModelAccountRpmRateLimitExceeded ModelAccountTpmRateLimitExceeded AccountRateLimitExceeded"
            " RequestBurstTooFast InflightBatchsizeExceeded RequestLimitExceeded LimitExceeded ThrottlingException"
            " rpm_rate_limit_exceeded tpm_rate_limit_exceeded rate_limit_reached_error ramp_limit_exceeded"
            " ModelArts.81101 ModelArts.81103 too_many_requests_error concurrency_limit_exceeded"
        ),
        "overloaded": (
            "engine_overloaded overloaded_error engine_overloaded_error server_overloaded ServerOverloaded ServiceOverloaded"
            " ModelNotReadyException ServiceUnavailableException ServiceUnavailableError overloaded"
        ),
        "server_error": (
            # new-api: the first channel failed and there was no other: an error of the gateway, not a wrong name
            "get_channel_failed InternalServiceError ContentSecurityDetectionError ModelErrorException"
            " InternalServerException"
        ),
        "timeout": "timeout_error ModelTimeoutException RequestTimeOut request_timeout",
        "context_length": (
            # OpenAI, llama.cpp, Copilot, GitHub Models, LiteLLM, Anthropic, Ark
            "context_length_exceeded exceed_context_size_error model_max_prompt_tokens_exceeded tokens_limit_reached"
            " ContextWindowExceededError context_window_exceeded model_context_window_exceeded prompt_too_long"
            " ContextLengthExceeded InputTokenLimitExceeded max_context_length_exceeded"
        ),
        "invalid_request": "request_too_large unsupported_value unsupported_parameter",
        "empty_response": "empty_response",
    }
)
GENERIC_KINDS: Mapping[str, ErrorKind] = _kinds(
    # Words that vendors put beside a more precise text: they count after the text.
    {
        # https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto; the types are OpenAI's, Anthropic's
        "auth": "unauthenticated authentication_error unauthorized",
        "permission": "permission_denied failed_precondition permission_error accessdenied access_denied"
        " AccessDeniedException forbidden OperationDenied",
        "not_found": "not_found not_found_error NotFoundError resource_not_found NotFound ResourceNotFound",
        "rate_limit": "resource_exhausted rate_limit_error RateLimitError TooManyRequests",
        "overloaded": "unavailable",
        "timeout": "deadline_exceeded",
        "connection": "cancelled",
        "server_error": "InternalError",
    }
)
BODY_STATUS: Mapping[str, int] = {
    plain(code): status
    for status, codes in {
        # The HTTP status that an error inside a 200 stands for; beside a real status these codes add nothing.
        400: "invalid_argument invalid_request_error BadRequestError bad_request InvalidParameter invalid_parameter_error"
        " InvalidParameterValue ValidationException validation_error unsupported_value unsupported_parameter",
        409: "aborted",
        500: "internal unknown internal_error internal_server_error InternalServerError server_error api_error"
        " do_request_failed",
        501: "unimplemented",
        503: "service_unavailable",
    }.items()
    for code in codes.split()
}

# --- numbers, each of one vendor -------------------------------------------------------------------------------------

_NUMBER_GROUPS: Mapping[Vendor, Mapping[ErrorKind, tuple[int, ...]]] = {
    # `base_resp.status_code`, https://platform.minimaxi.com/document/Error%20Code
    "minimax": {
        "auth": (1004, 2049), "quota": (1008,), "rate_limit": (1002, 1039, 1041, 2045, 2056), "content_filter": (1026, 1027),
        "timeout": (1001,), "server_error": (1000, 1013, 1024, 1033), "permission": (2061,), "invalid_request": (2013,),
    },
    # four digits in `error.code`, https://docs.z.ai/api-reference/api-code
    "zhipu": {
        "auth": (1000, 1001, 1002, 1003, 1004, 1110, 1111, 1112, 1121), "quota": (1113, 1309), "not_found": (1211, 1221, 1222),
        "permission": (1220, 1311, 1313), "content_filter": (1300, 1301), "context_length": (1261,),
        "rate_limit": (1302, 1303, 1304, 1305, 1308, 1310, 1312), "server_error": (1120, 1230, 1234),
        "invalid_request": (1210, 1212, 1213, 1214, 1215),
    },
    # `header.code`, or `code` beside `sid`, https://www.xfyun.cn/doc/spark/接口说明.html
    "spark": {
        "auth": (10005, 10015, 10016, 10017, 11200), "rate_limit": (10007, 11201, 11202, 11203),
        "content_filter": (10013, 10014, 10019, 10021, 10022), "context_length": (10907,), "overloaded": (10008, 10110),
        "not_found": (10404,), "server_error": (10009, 10010, 10012, 10018, 10222, 10910),
        "invalid_request": (10003, 10004, 10006, 10163),
    },
    # `error_code`, https://cloud.baidu.com/doc/WENXINWORKSHOP/s/tlmyncueh
    "baidu": {
        "auth": (13, 14, 15, 100, 110, 111), "permission": (6,), "rate_limit": (4, 17, 18, 336501, 336502), "quota": (19,),
        "context_length": (336103,), "not_found": (3,), "server_error": (1, 2, 336000, 336200), "overloaded": (336100,),
        "invalid_request": (336001, 336002, 336003, 336104),
    },
    # five digits in the top-level `code`, https://docs.siliconflow.cn/cn/faqs/error-code
    "siliconflow": {
        "not_found": (20012, 30003), "quota": (30001, 30011), "overloaded": (50505, 50603), "server_error": (50501, 50507),
        "invalid_request": (20015,),
    },
    # `errors[].code`, https://developers.cloudflare.com/workers-ai/platform/errors and ai-gateway guardrails
    "cloudflare": {
        "auth": (9109, 10000), "not_found": (5007,), "quota": (3036,), "overloaded": (3040,), "content_filter": (2016, 2017),
    },
}  # fmt: skip
NUMBER_KINDS: Mapping[tuple[Vendor, int], ErrorKind] = {
    (vendor, number): kind
    for vendor, kinds in _NUMBER_GROUPS.items()
    for kind, numbers in kinds.items()
    for number in numbers
}
OUTPUT_NUMBERS: frozenset[tuple[Vendor, int]] = frozenset(
    {("minimax", 1027), ("spark", 10014), ("spark", 10022), ("cloudflare", 2017)}
)
"""Refusals of the output."""
LONG_WINDOW_NUMBERS: frozenset[tuple[Vendor, int]] = frozenset(
    {("minimax", 2056), ("zhipu", 1304), ("zhipu", 1308), ("zhipu", 1310), ("spark", 11201), ("baidu", 17)}
)
"""Limits of a day, a few hours or a plan's period."""
