"""Tables of the codes by which gateways name an error, each group with the vendor that uses it.

Only data. `error_bodies.py` finds the codes in a body, `error_mapping.py` decides which table counts first. A code is
written here as its vendor writes it, and compared without case, `_`, `-` and spaces (`plain`).

Sources are pages and issues read from 2026-11-21 to 2026-11-27, or the source of the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from convbatch.lazy_regex import lazy_regex
from convbatch.reply import ErrorKind

Vendor = Literal["minimax", "zhipu", "spark", "baidu", "siliconflow", "cloudflare"]
"""Vendors whose errors are numbers; the same number means another thing at another vendor."""

_PUNCTUATION = lazy_regex(r"[\s_-]+")


def plain(code: str) -> str:
    """Return a code in the form in which the tables compare it."""
    return _PUNCTUATION.sub("", code).lower()


def _codes(*groups: str) -> frozenset[str]:
    return frozenset(plain(code) for group in groups for code in group.split())


def _kinds(groups: Mapping[ErrorKind, str]) -> dict[str, ErrorKind]:
    return {plain(code): kind for kind, codes in groups.items() for code in codes.split()}


# --- words ---

REFUSAL_CODES = _codes(
    # Azure and OpenAI, https://platform.openai.com/docs/guides/error-codes; Moonshot has the first as type
    "content_filter content_policy_violation ResponsibleAIPolicyViolation invalid_prompt moderation_blocked"
    " bio_policy cyber_policy cyber_policy_violation image_content_policy_violation policy_violation safety_violation"
    " misalignment_policy_violation",
    # new-api types/error.go and relay/channel/gemini, https://github.com/QuantumNous/new-api
    "prompt_blocked sensitive_words_detected violation_fee violation_fee.grok.csam content_violation",
    # Google finish and block reasons, which gateways copy into `code`
    "SAFETY PROHIBITED_CONTENT BLOCKLIST SPII RECITATION IMAGE_SAFETY RESPONSIBLE_AI",
    # https://www.alibabacloud.com/help/en/model-studio/error-code
    "DataInspectionFailed data_inspection_failed DataInspection IPInfringementSuspect FaqRuleBlocked CustomRoleBlocked",
    # https://www.volcengine.com/docs/82379/1299023; its other forms are in REFUSAL_CODE_FORMS
    "SensitiveContentDetected",
    # StepFun (HTTP 451), Tencent, Huawei ModelArts, LiteLLM, Portkey, Helicone, Anthropic's category names
    "censorship_blocked OperationDenied.TextIllegalDetected OperationDenied.ImageIllegalDetected ModelArts.81011"
    " ContentPolicyViolationError guardrail_violation guardrail_intervened hooks_failed PROMPT_THREAT_DETECTED"
    " content_blocked content_moderation moderation_failed sensitive flagged",
)
REFUSAL_CODE_FORMS = lazy_regex(
    r"(?:input|output)(?:text|image|video|audio)?(?:sensitivecontentdetected|riskdetection)"
)
"""Volcengine Ark: the refused side and medium are part of the code."""

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

# --- codes with one meaning ------------------------------------------------------------------------------------------

CODE_KINDS: Mapping[str, ErrorKind] = _kinds(
    {
        "auth": (
            # Google, OpenAI, new-api, DashScope, xAI
            "api_key_invalid api_key_expired invalid_api_key account_deactivated incorrect_api_key_error"
            " CONSUMER_SUSPENDED access_token_expired INVALID_API_KEY api_key_required token_expired invalid_key"
            # Ark, Tencent, AWS, Azure, Qianfan v2, LiteLLM, Moonshot, Huawei
            " AuthenticationError AuthFailure UnrecognizedClientException ExpiredTokenException"
            " MissingAuthenticationToken"
            " MissingAuthenticationTokenException InvalidSignatureException IncompleteSignature invalid_iam_token"
            " iam_auth_error auth_error no_db_connection token_not_found_in_db expired_key key_blocked"
            " invalid_authentication"
            " invalid_authentication_error access_terminated_error ModelArts.81002 ModelArts.81003"
            " PermissionDenied.Expired"
        ),
        "permission": (
            "service_disabled api_key_service_blocked model.accessdenied UnauthorizedOperation no_permission"
            " key_model_access_denied team_model_access_denied user_model_access_denied"
            " unsupported_country_region_territory"
            " OperationDenied.ServiceNotOpen FailedOperation.ServiceNotActivated FailedOperation.UserUnAuthError"
            " ModelArts.81004 access_not_configured"
        ),
        "not_found": (
            "model_not_found api_not_implemented ModelNotFound ModelNotOpen InvalidEndpointOrModel InvalidEndpoint"
            " UnsupportedModel DeploymentNotFound InvalidParameterValue.Model invalid_model model_not_exist"
            " model_not_supported"
            " unknown_model resource_not_found_error resource_not_found model_decommissioned model_disabled"
            " ModelArts.81009"
            " model_not_available ResourceNotFoundException model_not_exists"
        ),
        "rate_limit": (
            "rate_limit_exceeded slow_down too_many_requests throttling limit_requests limit_burst_rate"
            # Ark, Tencent, AWS, Qianfan v2, Moonshot, Huawei
            " RateLimitExceeded ModelAccountRpmRateLimitExceeded ModelAccountTpmRateLimitExceeded"
            " AccountRateLimitExceeded"
            " RequestBurstTooFast InflightBatchsizeExceeded RequestLimitExceeded LimitExceeded ThrottlingException"
            " rpm_rate_limit_exceeded tpm_rate_limit_exceeded"
            " FailedOperation.EngineServerLimitExceeded rate_limit_reached_error ramp_limit_exceeded"
            " ModelArts.81101 ModelArts.81103 too_many_requests_error concurrency_limit_exceeded"
        ),
        "overloaded": (
            "engine_overloaded overloaded_error engine_overloaded_error server_overloaded ServerOverloaded"
            " ServiceOverloaded"
            " ModelNotReadyException ServiceUnavailableException ServiceUnavailableError overloaded"
        ),
        "server_error": (
            # new-api: the first channel failed and there was no other: an error of the gateway, not a wrong name
            "get_channel_failed InternalServiceError ContentSecurityDetectionError ModelErrorException"
            " InternalServerException"
        ),
        "timeout": "timeout_error ModelTimeoutException RequestTimeOut request_timeout vector_store_timeout",
        "context_length": (
            # OpenAI, llama.cpp, Copilot, GitHub Models, LiteLLM, Anthropic, Ark
            "context_length_exceeded exceed_context_size_error model_max_prompt_tokens_exceeded tokens_limit_reached"
            " ContextWindowExceededError context_window_exceeded model_context_window_exceeded prompt_too_long"
            " ContextLengthExceeded InputTokenLimitExceeded max_context_length_exceeded"
        ),
        "invalid_request": (
            "request_too_large unsupported_value unsupported_parameter"
            # OpenAI Responses, of failed responses and of refused histories
            " previous_response_not_found invalid_encrypted_content data_residency_mismatch"
            " invalid_image invalid_image_format invalid_base64_image invalid_image_url invalid_image_mode"
            " image_too_large image_too_small image_parse_error image_file_too_large unsupported_image_media_type"
            " empty_image_file failed_to_download_image image_file_not_found"
            # Anthropic, error.details.error_code
            " image_dimensions_too_large tool_name_conflict request_body_too_large_after_decoding"
        ),
        "empty_response": "empty_response",
    }
)
GENERIC_KINDS: Mapping[str, ErrorKind] = _kinds(
    # Words that vendors put beside a more precise text: they count after the text.
    {
        # https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto; types of OpenAI, Anthropic
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
        400: "invalid_argument invalid_request_error BadRequestError bad_request InvalidParameter"
        " invalid_parameter_error InvalidParameterValue ValidationException validation_error"
        " unsupported_value unsupported_parameter",
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
        "auth": (1004, 2049),
        "quota": (1008,),
        "rate_limit": (1002, 1039, 1041, 2045, 2056),
        "content_filter": (1026, 1027),
        "timeout": (1001,),
        "server_error": (1000, 1013, 1024, 1033),
        "permission": (2061,),
        "invalid_request": (2013,),
    },
    # four digits in `error.code`, https://docs.z.ai/api-reference/api-code
    "zhipu": {
        "auth": (1000, 1001, 1002, 1003, 1004, 1110, 1111, 1112, 1121),
        "quota": (1113, 1309),
        "not_found": (1211, 1221, 1222),
        "permission": (1220, 1311, 1313),
        "content_filter": (1301,),
        "context_length": (1261,),
        "rate_limit": (1302, 1303, 1304, 1305, 1308, 1310, 1312),
        "server_error": (1120, 1230, 1234),
        "invalid_request": (1210, 1212, 1213, 1214, 1215),
    },
    # `header.code`, or `code` beside `sid`, https://www.xfyun.cn/doc/spark/接口说明.html
    "spark": {
        "auth": (10005, 10015, 10016, 10017, 11200),
        "rate_limit": (10007, 11201, 11202, 11203),
        "content_filter": (10013, 10014, 10019, 10021, 10022),
        "context_length": (10907,),
        "overloaded": (10008, 10110),
        "not_found": (10404,),
        "server_error": (10009, 10010, 10012, 10018, 10222, 10910),
        "invalid_request": (10003, 10004, 10006, 10163),
    },
    # `error_code`, https://cloud.baidu.com/doc/WENXINWORKSHOP/s/tlmyncueh
    "baidu": {
        "auth": (13, 14, 15, 100, 110, 111),
        "permission": (6,),
        "rate_limit": (4, 17, 18, 336501, 336502),
        "quota": (19,),
        "context_length": (336103,),
        "not_found": (3,),
        "server_error": (1, 2, 336000, 336200),
        "overloaded": (336100,),
        "invalid_request": (336001, 336002, 336003, 336104),
    },
    # five digits in the top-level `code`, https://docs.siliconflow.cn/cn/faqs/error-code
    "siliconflow": {
        "not_found": (20012, 30003),
        "quota": (30001, 30011),
        "overloaded": (50505, 50603),
        "server_error": (50501, 50507),
        "invalid_request": (20015,),
    },
    # `errors[].code`, https://developers.cloudflare.com/workers-ai/platform/errors and ai-gateway guardrails
    "cloudflare": {
        "auth": (9109, 10000),
        "not_found": (5007,),
        "quota": (3036,),
        "overloaded": (3040,),
        "content_filter": (2016, 2017),
    },
}
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
