"""What gateways say in an error, in the words, codes and shapes of each vendor, gets its kind."""

from __future__ import annotations

from typing import Any

import pytest

from convbatch.protocols.error_mapping import classify_error
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.wire import ErrorInBody, encode_json
from convbatch.reply import NO_USAGE, Failure


def classify(status: int, body: Any) -> Failure:
    return classify_error(status, {}, body if isinstance(body, bytes) else encode_json(body))


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


REFUSALS: list[tuple[int, Any, str, str]] = [
    # Azure, OpenAI
    (
        400,
        error(
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify"
            " your prompt and retry.",
            param="prompt",
            code="content_filter",
            innererror={"code": "ResponsibleAIPolicyViolation"},
        ),
        "prompt",
        "content_filter",
    ),
    (400, error("m", code=None, innererror={"code": "ResponsibleAIPolicyViolation"}), "prompt", "ResponsibleAIPolicyViolation"),
    (400, error("Invalid prompt: your prompt was flagged as potentially violating our usage policy.", code="invalid_prompt"), "prompt", "invalid_prompt"),
    (400, error("Your request was rejected as a result of our safety system.", code="content_policy_violation"), "prompt", "content_policy_violation"),
    (400, error("m", code="moderation_blocked", type="image_generation_user_error"), "prompt", "moderation_blocked"),
    # Anthropic
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}}, "output", "Output blocked by content filtering policy"),
    # Google, Vertex
    (400, error("The prompt could not be submitted. This prompt contains sensitive words that violate Google's Responsible AI practices. Try rephrasing the prompt.", code=400, status="INVALID_ARGUMENT"), "prompt", "The prompt could not be submitted. This prompt contains sensitive words that violate Google's Respon"),
    (400, error("request blocked by Gemini API: PROHIBITED_CONTENT", type="upstream_error", code="prompt_blocked"), "prompt", "prompt_blocked"),
    # new-api, one-api
    (500, error("input contains sensitive words: [test] (request id: 2024)", type="new_api_error", param="", code="sensitive_words_detected"), "prompt", "sensitive_words_detected"),
    (400, error("user sensitive words detected: x", type="new_api_error", code=""), "prompt", "user sensitive words detected: x"),
    (500, error("您的输入内容包含敏感词，请修改后重试 (request id: 1)", type="one_api_error", code=None), "prompt", "您的输入内容包含敏感词，请修改后重试 (request id: 1)"),
    (403, error("提问内容涉嫌违规，已被拦截", type="shell_api_error"), "prompt", "提问内容涉嫌违规，已被拦截"),
    (422, {"detail": "内容安全审核不通过"}, "prompt", "内容安全审核不通过"),
    # OpenRouter
    (403, error("Input was flagged", code=403, metadata={"reasons": ["violence"], "flagged_input": "Say"}), "prompt", "Input was flagged"),
    (403, error("m", code=403, metadata={"reasons": ["sexual"], "provider_name": "OpenAI"}), "prompt", "m (OpenAI)"),
    (400, error("Provider returned error", code=400, metadata={"provider_name": "Azure", "raw": '{"error": {"code": "content_filter", "message": "filtered"}}'}), "prompt", "content_filter"),
    # DeepSeek, Moonshot, StepFun
    (400, error("Content Exists Risk", type="invalid_request_error", code="invalid_request_error"), "prompt", "Content Exists Risk"),
    (400, error("The request was rejected because it was considered high risk", code=400, param="prompt", type="content_filter"), "prompt", "content_filter"),
    (451, error("The content you provided or machine outputted is blocked.", type="censorship_blocked"), "prompt", "censorship_blocked"),
    # Zhipu
    (400, {"contentFilter": [{"level": 1, "role": "user"}], "error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}}, "prompt", "1301"),
    (400, {"contentFilter": [{"level": 1, "role": "assistant"}], "error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}}, "output", "1301"),
    (500, error('{"error":{"code":"1301","message":"m"}} (request id: 2)', type="upstream_error", code="bad_response_status_code"), "prompt", "1301"),
    # Volcengine Ark
    (400, error("The request failed because the input text may contain sensitive information.", code="SensitiveContentDetected", type="BadRequest"), "prompt", "SensitiveContentDetected"),
    (400, error("The request failed because the input text may contain severe violation information.", code="SensitiveContentDetected.SevereViolation", type="BadRequest"), "prompt", "SensitiveContentDetected.SevereViolation"),
    (400, error("m", code="InputTextSensitiveContentDetected"), "prompt", "InputTextSensitiveContentDetected"),
    (400, error("m", code="OutputTextSensitiveContentDetected"), "output", "OutputTextSensitiveContentDetected"),
    (400, error("m", code="InputImageSensitiveContentDetected.PrivacyInformation"), "prompt", "InputImageSensitiveContentDetected.PrivacyInformation"),
    (400, error("m", code="OutputTextRiskDetection"), "output", "OutputTextRiskDetection"),
    # DashScope
    (400, error("Input data may contain inappropriate content.", code="data_inspection_failed", type="data_inspection_failed"), "prompt", "data_inspection_failed"),
    (400, {"code": "DataInspectionFailed", "message": "Output data may contain inappropriate content.", "request_id": "r"}, "output", "DataInspectionFailed"),
    (400, error("<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content.", code="invalid_parameter_error"), "prompt", "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content."),
    # xAI, whose code is a sentence
    (403, {"code": "The caller does not have permission to execute the specified operation", "error": "Content violates usage guidelines. Team: t, API key ID: k, Model: grok-4, Failed check: SAFETY_CHECK_TYPE_BIO"}, "prompt", "Content violates usage guidelines. Team: t, API key ID: k, Model: grok-4, Failed check: SAFETY_CHECK"),
    # guardrails: LiteLLM, Portkey, Cloudflare, Helicone, Bedrock
    (400, error("Violated guardrail policy", type="None", code="400"), "prompt", "Violated guardrail policy"),
    (446, error("The guardrail checks defined in the config failed.", type="hooks_failed"), "prompt", "hooks_failed"),
    (424, {"success": False, "errors": [{"code": 2017, "message": "Response blocked due to security configurations"}]}, "output", "2017"),
    (424, {"success": False, "error": [{"code": 2016, "message": "Prompt blocked due to security configurations"}]}, "prompt", "2016"),
    (400, {"success": False, "error": {"code": "PROMPT_THREAT_DETECTED", "message": "Prompt threat detected. Your request cannot be processed."}}, "prompt", "PROMPT_THREAT_DETECTED"),
    # Tencent, Huawei
    (400, {"Response": {"Error": {"Code": "OperationDenied.TextIllegalDetected", "Message": "文本包含违法违规内容"}}}, "prompt", "OperationDenied.TextIllegalDetected"),
    (403, {"error_code": "ModelArts.81011", "error_msg": "Input text May contain sensitive information, please try again."}, "prompt", "ModelArts.81011"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "blocked", "word"), REFUSALS, ids=range(len(REFUSALS)))
def test_a_refusal_of_the_content_is_known_by_its_words(status: int, body: Any, blocked: str, word: str) -> None:
    failure = classify(status, body)
    assert (failure.kind, failure.blocked, failure.finish_reason_raw) == ("content_filter", blocked, word)
    assert not failure.retryable


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, error("Invalid value for safety_settings[0].threshold"), "invalid_request"),
        (400, error("Unknown parameter: 'content_filter'.", code="unknown_parameter"), "invalid_request"),
        (400, error("The content_filter parameter is invalid"), "invalid_request"),
        (400, error("Invalid JSON payload received. Unknown name \"safety\": Cannot find field."), "invalid_request"),
        (400, error("User location is not supported for the API use.", status="FAILED_PRECONDITION"), "permission"),
        (403, error("Country, region, or territory not supported", code="unsupported_country_region_territory"), "permission"),
        (403, error("Your request was blocked by the firewall"), "permission"),
        (403, error("Request blocked by network policy"), "permission"),
        (403, error("Your account was flagged and has been suspended"), "auth"),
        (403, error("该账号因违规已被封禁"), "auth"),
        (400, error("messages: text content blocks must contain non-whitespace text"), "invalid_request"),
        (400, error("Invalid schema for response_format: violates strict mode rules"), "invalid_request"),
        (400, error("参数 safety 错误：内容安全等级无效"), "invalid_request"),
        (400, error("Unsupported value: 'temperature' does not support 0 with this model."), "invalid_request"),
        (400, error("This model only support stream mode, please enable the stream parameter"), "invalid_request"),
        (400, error("Conversation roles must alternate user/assistant/user/assistant/..."), "invalid_request"),
        (404, error("No endpoints found matching your data policy"), "not_found"),
        (429, error("请求过于频繁，触发风控，请稍后再试"), "rate_limit"),
        (429, error("Rate limit reached for content moderation"), "rate_limit"),
        (451, error("Unavailable for legal reasons"), "permission"),
        (400, error("Content security detection failed", code="ContentSecurityDetectionError"), "server_error"),
    ],
)  # fmt: skip
def test_an_error_that_only_mentions_a_filter_is_no_refusal(status: int, body: Any, kind: str) -> None:
    failure = classify(status, body)
    assert (failure.kind, failure.blocked) == (kind, None)


IN_SUCCESS: list[tuple[Any, str, str]] = [
    # MiniMax
    ({"base_resp": {"status_code": 1004, "status_msg": "login fail: Please carry the API secret key"}}, "auth", "login fail: Please carry the API secret key"),
    ({"choices": None, "usage": {"total_tokens": 0}, "base_resp": {"status_code": 1002, "status_msg": "rate limit exceeded(RPM)"}}, "rate_limit", "rate limit exceeded(RPM)"),
    ({"choices": [], "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, "quota", "insufficient balance"),
    ({"base_resp": {"status_code": 2049, "status_msg": "invalid api key"}}, "auth", "invalid api key"),
    ({"base_resp": {"status_code": 2013, "status_msg": "invalid params, context window exceeds limit"}}, "context_length", "context window"),
    ({"base_resp": {"status_code": 2013, "status_msg": "invalid params"}}, "invalid_request", "invalid params"),
    ({"base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}}, "content_filter", "output new_sensitive"),
    ({"base_resp": {"status_code": 2056, "status_msg": "usage limit exceeded"}}, "quota", "usage limit exceeded"),
    ({"base_resp": {"status_code": 1013, "status_msg": "unknown error"}}, "server_error", "unknown error"),
    # code with msg or message
    ({"code": 500, "msg": "系统繁忙，请稍后再试", "data": None, "success": False}, "server_error", "系统繁忙"),
    ({"code": 401, "msg": "无效的令牌"}, "auth", "无效的令牌"),
    ({"code": 429, "message": "Too many requests"}, "rate_limit", "Too many"),
    ({"code": -1, "msg": "余额不足，请充值"}, "quota", "余额不足"),
    ({"code": 20012, "message": "Model does not exist. Please check it carefully.", "data": None}, "not_found", "Model does not"),
    ({"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}, "quota", "balance"),
    ({"code": 50505, "message": "Model service overloaded. Please try again later.", "data": None}, "overloaded", "overloaded"),
    ({"code": 1301, "msg": "m", "success": False}, "content_filter", "m"),
    ({"code": 11200, "message": "auth no license", "sid": "s"}, "auth", "license"),
    # Spark, Tencent, Ark, Baidu
    ({"header": {"code": 11200, "message": "AppIdNoAuthError", "sid": "x"}}, "auth", "AppIdNoAuthError"),
    ({"header": {"code": 10014, "message": "m", "sid": "x"}}, "content_filter", "m"),
    ({"header": {"code": 11202, "message": "m"}}, "rate_limit", "m"),
    ({"header": {"code": 11201, "message": "m"}}, "quota", "m"),
    ({"header": {"code": 10907, "message": "m"}}, "context_length", "m"),
    ({"Response": {"Error": {"Code": "FailedOperation.ResourcePackExhausted", "Message": "m"}, "RequestId": "r"}}, "quota", "m"),
    ({"Response": {"Error": {"Code": "RequestLimitExceeded", "Message": "m"}}}, "rate_limit", "m"),
    ({"Response": {"Error": {"Code": "AuthFailure.SignatureFailure", "Message": "m"}}}, "auth", "m"),
    ({"Response": {"Error": {"Code": "InvalidParameterValue.Model", "Message": "m"}}}, "not_found", "m"),
    ({"ResponseMetadata": {"RequestId": "r", "Error": {"CodeN": 100010, "Code": "AccountOverdueError", "Message": "m"}}}, "quota", "m"),
    ({"error_code": 110, "error_msg": "Access token invalid or no longer valid"}, "auth", "Access token"),
    ({"error_code": 17, "error_msg": "Open api daily request limit reached"}, "quota", "daily"),
    ({"error_code": 18, "error_msg": "Open api qps request limit reached"}, "rate_limit", "qps"),
    ({"error_code": 336103, "error_msg": "Prompt tokens too long"}, "context_length", "too long"),
    ({"error_code": 336003, "error_msg": "the max input characters is 8000"}, "context_length", "8000"),
    ({"error_code": 336003, "error_msg": "top_p must be in (0, 1]"}, "invalid_request", "top_p"),
    ({"id": "as-1", "result": "", "need_clear_history": True, "ban_round": 0, "error_msg": "m"}, "content_filter", "m"),
    # lone texts and other objects
    ({"detail": "Invalid API key"}, "auth", "Invalid API key"),
    ({"detail": [{"loc": ["body", "messages"], "msg": "field required", "type": "missing"}]}, "invalid_request", "field required"),
    ({"detail": "Not Found"}, "not_found", "Not Found"),
    ({"status": "error", "message": "upstream quota exceeded"}, "quota", "upstream quota"),
    ({"status": "fail", "msg": "服务繁忙"}, "overloaded", "服务繁忙"),
    ({"status": 500, "message": "m"}, "server_error", "m"),
    ({"success": False, "message": "model not found"}, "not_found", "model not found"),
    ({"success": False, "errors": [{"code": 5007, "message": "No such model @cf/x or task"}], "result": {}}, "not_found", "No such model"),
    ({"errors": ["something broke"]}, "server_error", "something broke"),
    ({"errorCode": "E1", "errorMsg": "something broke"}, "server_error", "something broke"),
    ({"errcode": 40001, "errmsg": "invalid credential"}, "auth", "invalid credential"),
    ({"ret": -1, "msg": "something broke"}, "server_error", "something broke"),
    ({"Error": {"Code": "Throttling", "Message": "m"}}, "rate_limit", "m"),
    ({"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}, "not_found", "does not exist"),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "overloaded", "Overloaded"),
    ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "not_found", "Unexpected endpoint"),
    ({"error": {"code": "1261", "message": "Prompt 超长"}}, "context_length", "Prompt 超长"),
    ({"__type": "com.amazon.coral.service#ThrottlingException", "message": "Too many tokens, please wait before trying again."}, "rate_limit", "Too many"),
    ({"message": "something broke"}, "server_error", "something broke"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "said"), IN_SUCCESS, ids=range(len(IN_SUCCESS)))
def test_an_error_in_a_200_keeps_its_message_and_has_the_kind_of_its_code(body: Any, kind: str, said: str) -> None:
    for wire in PROTOCOLS.values():
        with pytest.raises(ErrorInBody) as caught:
            wire.parse_response(encode_json(body))
        failure = caught.value.failure
        assert (failure.kind, failure.structured, failure.usage) == (kind, True, NO_USAGE)
        assert said in failure.message


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    "beside",
    [
        {"base_resp": {"status_code": 0, "status_msg": ""}},
        {"base_resp": {"status_code": 0, "status_msg": "success"}},
        {"code": 0, "message": "Success", "sid": "s"},
        {"code": 200, "msg": "success"},
        {"code": "", "message": ""},
        {"header": {"code": 0, "message": "Success"}},
        {"error": {"message": "", "type": "", "param": "", "code": None}},
        {"error": {"code": 0, "message": "ok"}},
        {"error": {"code": "", "message": None, "type": "none"}},
        {"error": {}},
        {"error": None},
        {"error": ""},
        {"errors": []},
        {"error_code": 0, "error_msg": ""},
        {"success": True, "message": "done"},
        {"status": "success", "detail": "cached"},
        {"message": "from cache"},
        {"code": 17, "msg": "another field of a gateway"},
        {"type": "message", "detail": "x"},
        {"contentFilter": [{"level": 3, "role": "assistant"}]},
        {"need_clear_history": False, "ban_round": 0},
    ],
    ids=repr,
)
def test_a_reply_with_keys_of_an_error_beside_it_stays_a_reply(beside: dict[str, Any]) -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    reply = PROTOCOLS["openai"].parse_response(encode_json({"choices": [CHOICE], "usage": usage, **beside}))
    assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("hello", "stop", 1)
    candidate = {"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}
    assert PROTOCOLS["gemini"].parse_response(encode_json({"candidates": [candidate], **beside})).text == "hello"


def test_a_refusal_beside_an_empty_choice_of_minimax_is_the_prompt_s() -> None:
    empty = {**CHOICE, "message": {"role": "assistant", "content": ""}}
    body = {
        "choices": [empty],
        "usage": {"total_tokens": 30},
        "base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"},
    }
    with pytest.raises(ErrorInBody) as caught:
        PROTOCOLS["openai"].parse_response(encode_json(body))
    failure = caught.value.failure
    assert (failure.kind, failure.blocked, failure.usage.total_tokens) == ("content_filter", "prompt", 30)


def test_an_error_beside_text_keeps_the_text() -> None:
    body = {"choices": [CHOICE], "base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}}
    with pytest.raises(ErrorInBody) as caught:
        PROTOCOLS["openai"].parse_response(encode_json(body))
    assert (caught.value.failure.text, caught.value.failure.blocked) == ("hello", "output")


BY_WORDS: list[tuple[int, Any, str]] = [
    # quota: SiliconFlow, Ark, Moonshot, LiteLLM, xAI
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}, "quota"),
    (403, error("The request failed because your account has an overdue balance.", code="AccountOverdueError", type="Forbidden"), "quota"),
    (429, error("Your account [2] has reached the set inference limit for the [m] model", code="SetLimitExceeded", type="TooManyRequests"), "quota"),
    (429, error("Your account [2] has exhausted its free trial quota", code="QuotaExceeded"), "quota"),
    (429, error("You exceeded your current token quota: <org> 1, please check your account balance", type="exceeded_current_quota_error"), "quota"),
    (403, error("Your account xx is not active, organization xx exceeded current quota, please check your plan and billing details", type="exceeded_current_quota_error"), "quota"),
    (429, error("Your account org-x is suspended, please check your plan and billing details", type="x"), "quota"),
    (403, error("Your account org-x <ak-y> is suspended due to insufficient balance, please recharge your account"), "quota"),
    (403, {"error": {"type": "permission_error", "message": "You've reached your usage limit for this billing cycle. Your quota will be refreshed in the next cycle."}, "type": "error"}, "quota"),
    (400, error("Budget has been exceeded! Current cost: 10.1, Max budget: 10.0", type="budget_exceeded", code="400"), "quota"),
    (429, error("ExceededBudget: User=x over budget. Spend=1, Budget=0.5", type="budget_exceeded"), "quota"),
    (403, {"code": "The caller does not have permission to execute the specified operation", "error": "Your newly created team doesn't have any credits yet. You can purchase credits on https://console.x.ai"}, "quota"),
    (429, {"code": "Some resource has been exhausted", "error": "Your team has either used all available credits or reached its monthly spending limit."}, "quota"),
    # quota: MiniMax on its compatible wires, Zhipu, DeepSeek, OpenRouter, DashScope, Tencent, Cloudflare, Google, OpenAI
    (429, {"error": {"http_code": "429", "message": "insufficient balance (1008)", "type": "insufficient_balance_error"}}, "quota"),
    (500, {"type": "error", "error": {"type": "api_error", "message": "insufficient balance (1008)"}}, "quota"),
    (429, error("usage limit exceeded, 5-hour usage limit reached for Token Plan Starter (0/0 used), resets at 2026-05-15T15:00:00Z (2056)", type="rate_limit_error"), "quota"),
    (429, {"error": {"code": "1113", "message": "您的账户已欠费，请充值后重试"}}, "quota"),
    (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包,请充值。"}}, "quota"),
    (429, {"error": {"code": "1308", "message": "已达到 5 小时的使用上限。您的限额将在 2026-08-25 07:41:44 重置。"}}, "quota"),
    (429, {"error": {"code": "1309", "message": "您的套餐已到期"}}, "quota"),
    (429, {"error": {"code": "1304", "message": "m"}}, "quota"),
    (402, error("Insufficient Balance", type="unknown_error", code="invalid_request_error"), "quota"),
    (402, error("This request requires more credits, or fewer max_tokens.", code=402), "quota"),
    (402, error("Prompt tokens limit exceeded: 64128 > 6964.", code=402), "quota"),
    (400, error("Access denied, please make sure your account is in good standing.", code="Arrearage", type="Arrearage"), "quota"),
    (403, error("The free tier of the model has been exhausted. If you wish to continue access the model on a paid basis", code="AllocationQuota.FreeTierOnly"), "quota"),
    (400, {"Response": {"Error": {"Code": "ResourceInsufficient.ChargeResourceExhaust", "Message": "m"}}}, "quota"),
    (429, {"success": False, "errors": [{"code": 3036, "message": "You have used up your daily free allocation of 10,000 neurons"}]}, "quota"),
    (403, error("This API method requires billing to be enabled.", status="PERMISSION_DENIED", code=403), "quota"),
    (429, error("Your prepayment credits are depleted.", status="RESOURCE_EXHAUSTED", code=429), "quota"),
    (429, error("You exceeded your current quota, please check your plan and billing details.", type="upstream_error", code=""), "quota"),
    (403, {"code": "INSUFFICIENT_BALANCE", "message": "Insufficient account balance"}, "quota"),
    (402, error("Free quota used (30 requests / 5h). Resets at 10:00 UTC.", type="insufficient_quota", code="free_quota_exceeded"), "quota"),
    (401, {"error_code": "ModelArts.81005", "error_msg": "The free quota has been used up."}, "quota"),
    (429, {"type": "error", "error": {"type": "rate_limit_error", "message": "m", "details": {"error_code": "contract_spend_limit_reached"}}}, "quota"),
    # a limit per minute is none
    (429, error("You exceeded your current quota, please check your plan and billing details.", status="RESOURCE_EXHAUSTED", code=429), "rate_limit"),
    (429, error("You exceeded your current quota. Please retry in 12s.", code=429), "rate_limit"),
    (429, error("Quota exceeded for aiplatform.googleapis.com/generate_content_requests_per_minute_per_project", code=429), "rate_limit"),
    (429, error("Rate limit exceeded: limit 20 requests. Purchase credits to raise it."), "rate_limit"),
    (429, {"error": {"code": "1302", "message": "您当前使用该API的并发数过高，请降低并发，或联系客服增加限额"}}, "rate_limit"),
    (429, {"error": {"code": "1305", "message": "API 请求过多，请稍后重试"}}, "rate_limit"),
    (429, error("Service tier capacity exceeded for this model.", code="3505", type="invalid_request_error"), "rate_limit"),
    (429, error("Rate limit reached for RPM", code="rpm_rate_limit_exceeded", type="rate_limit_exceeded"), "rate_limit"),
    (403, error("API rate limit exceeded for user"), "rate_limit"),
    (500, error("rate limit exceeded(RPM) (1002)", type="api_error"), "rate_limit"),
    (413, error("Request too large for model `x` in organization `o` on tokens per minute (TPM): Limit 6000, Requested 8000", code="rate_limit_exceeded", type="tokens"), "rate_limit"),
    # key: Moonshot, LiteLLM, xAI, Ark, Zhipu, Google, OpenAI, DashScope, Spark, Baidu, AWS, DeepSeek
    (401, error("Incorrect API key provided", type="incorrect_api_key_error"), "auth"),
    (400, error("No connected db.", type="no_db_connection", code="400"), "auth"),
    (400, error("Authentication Error, Invalid proxy server token passed. Received API Key = sk-...", type="auth_error", code="400"), "auth"),
    (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***. You can obtain an API key from https://console.x.ai."}, "auth"),
    (401, error("The API key in the request is missing or invalid.", code="AuthenticationError"), "auth"),
    (401, {"error": {"code": "1002", "message": "Authorization Token非法，请确认Authorization Token正确传递。"}}, "auth"),
    (400, error("m", code=400, status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]), "auth"),
    (400, error("API key expired. Please renew the API key.", code=400), "auth"),
    (403, error("Permission denied: Consumer 'api_key:x' has been suspended.", code=403, status="PERMISSION_DENIED"), "auth"),
    (403, error("m", code="account_deactivated"), "auth"),
    (401, error("Incorrect API key provided.", code="invalid_api_key"), "auth"),
    (401, {"code": "InvalidApiKey", "message": "Invalid API-key provided."}, "auth"),
    (500, {"code": 11200, "message": "AppIdNoAuthError", "sid": "s"}, "auth"),
    (403, {"__type": "UnrecognizedClientException", "message": "The security token included in the request is invalid."}, "auth"),
    (401, error("Authentication Fails, Your api key: ****1234 is invalid", type="authentication_error"), "auth"),
    (403, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}, "auth"),
    (500, error("该令牌状态不可用 (request id: 1)", type="one_api_error"), "auth"),
    (400, {"base_resp": {"status_code": 2049, "status_msg": "invalid api key"}}, "auth"),
    # permission
    (403, error("m", code="Model.AccessDenied"), "permission"),
    (403, {"error_code": 6, "error_msg": "No permission to access data"}, "permission"),
    (403, {"code": "permission-denied", "error": "m"}, "permission"),
    (403, error("m", code="no_permission"), "permission"),
    (403, {"__type": "AccessDeniedException", "message": "You are not authorized"}, "permission"),
    (401, error("key not allowed to access model. This key can only access models=['a']", type="key_model_access_denied"), "permission"),
    # model
    (400, {"code": 20012, "message": "Model does not exist. Please check it carefully.", "data": None}, "not_found"),
    (403, {"code": 30003, "message": "Model disabled.", "data": None}, "not_found"),
    (400, error("/chat/completions: Invalid model name passed in model=x. Call `/v1/models` to view available models", type="invalid_request_error", code="400"), "not_found"),
    (404, error("The model or endpoint x does not exist or you do not have access to it.", code="InvalidEndpointOrModel.NotFound"), "not_found"),
    (404, error("Your account 2 has not activated the model x.", code="ModelNotOpen"), "not_found"),
    (400, error("m", code="InvalidEndpoint.ClosedEndpoint"), "not_found"),
    (404, error("Not found the model x or Permission denied", type="resource_not_found_error"), "not_found"),
    (400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"}, "not_found"),
    (400, error("x/y is not a valid model ID", code=400), "not_found"),
    (404, error("No endpoints found for x/y.", code=404), "not_found"),
    (400, error("Model Not Exist", type="invalid_request_error", code="invalid_request_error"), "not_found"),
    (400, {"error": {"code": "1211", "message": "模型不存在，请检查模型代码。"}}, "not_found"),
    (400, error("The model `x` has been decommissioned and is no longer supported.", code="model_decommissioned"), "not_found"),
    (400, error("Unable to access model x. Please visit https://api.together.ai/models", type="invalid_request_error"), "not_found"),
    (404, {"error": {"message": "model \"x\" not found, try pulling it first", "type": "api_error"}}, "not_found"),
    (404, error("No models loaded. Please load a model in the developer page"), "not_found"),
    (400, error("The provided model identifier is invalid."), "not_found"),
    (404, error("The API deployment for this resource does not exist.", code="DeploymentNotFound"), "not_found"),
    (400, error("The requested model is not supported.", code="model_not_supported"), "not_found"),
    (400, {"success": False, "errors": [{"code": 5007, "message": "No such model"}]}, "not_found"),
    (503, error("No available channel for model x under group default", code="model_not_found"), "not_found"),
    (404, {"type": "error", "error": {"type": "not_found_error", "message": "model: claude-x"}}, "not_found"),
    (400, {"error": {"message": "invalid model", "code": "invalid_model", "type": "invalid_request_error"}}, "not_found"),
    (500, error("模型 x 已下线，请更换模型"), "not_found"),
    # none of these
    (400, error("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."), "invalid_request"),
    (400, error("This model does not support image input"), "invalid_request"),
    (400, error("该模型不支持 temperature 参数"), "invalid_request"),
    (400, error("Thinking level is not supported for this model.", status="INVALID_ARGUMENT"), "invalid_request"),
    (400, error("tools is not supported by this model"), "invalid_request"),
    (400, error("Invalid model output format: expected json"), "invalid_request"),
    (400, error("Unexpected token '<' in JSON at position 0"), "invalid_request"),
    (400, error("messages 中 user 和 assistant 角色需交替出现", type="invalid_request_error", code="1001", id="x"), "invalid_request"),
    (400, {"code": 20015, "message": "The parameter is invalid.", "data": None}, "invalid_request"),
    (500, error("The server had an error while processing your request", type="server_error"), "server_error"),
    (400, {"status": 1001, "message": "bad field"}, "invalid_request"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), BY_WORDS, ids=range(len(BY_WORDS)))
def test_quota_limits_keys_and_models_are_told_apart_by_words(status: int, body: Any, kind: str) -> None:
    assert classify(status, body).kind == kind


@pytest.mark.parametrize(
    ("status", "body", "no_model"),
    [
        (404, b"404 page not found", True),
        (404, b"", True),
        (404, b"<html><h1>Not Found</h1></html>", True),
        (405, {"detail": "Method Not Allowed"}, True),
        (404, {"detail": "Not Found"}, True),
        (404, error("Resource not found", code="404"), True),
        (404, error("Invalid URL (POST /v1/v1/chat/completions)", type="invalid_request_error"), True),
        (404, {"message": "no Route matched with those values"}, True),
        (404, {"timestamp": 1, "status": 404, "error": "Not Found", "path": "/v1/chat/completions"}, True),
        (404, error("Unknown request URL: POST /v1/chat. Please check the URL for typos.", code="unknown_url"), True),
        (404, error("The model `x` does not exist", code="model_not_found"), False),
        (404, {"error": "model 'x' not found, try pulling it first"}, False),
        (404, error("m"), False),
        (502, b"<html>Bad Gateway</html>", False),
        (403, b"<html>Forbidden</html>", False),
    ],
)  # fmt: skip
def test_a_path_that_does_not_exist_asked_no_model(status: int, body: Any, no_model: bool) -> None:
    failure = classify(status, body)
    assert failure.no_model is no_model
    assert failure.kind == "not_found" or not no_model


def test_an_unexpected_endpoint_inside_a_200_asked_no_model() -> None:
    with pytest.raises(ErrorInBody) as caught:
        PROTOCOLS["openai"].parse_response(b'{"error": "Unexpected endpoint or method. (POST /chat/completions)"}')
    assert caught.value.failure.no_model


TOO_LONG: list[tuple[int, Any]] = [
    (400, error("Invalid request: Your request exceeded model token limit: 8192", type="invalid_request_error")),
    (400, error("Your request exceeded model token limit: 262144 (requested: 274948)", type="invalid_request_error")),
    (400, {"object": "error", "message": "The input (40960 tokens) is longer than the model's context length (32768 tokens).", "type": "BadRequestError", "code": 400}),
    (400, {"object": "error", "message": "Requested token count exceeds the model's maximum context length of 32768 tokens. You requested a total of 40000 tokens", "code": 400}),
    (400, error("Input length (40000 tokens) exceeds the maximum allowed length (32768 tokens).")),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 100 `max_new_tokens`", "error_type": "validation"}),
    (422, {"error": "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000", "error_type": "validation"}),
    (400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}),
    (400, {"error": {"message": "Prompt 超长", "type": "upstream_error", "code": "1261"}}),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 213462 tokens > 200000 maximum"}}),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "input length and `max_tokens` exceed context limit: 190000 + 21000 > 200000, decrease input length or `max_tokens` and try again"}}),
    (400, error("The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).", code=400, status="INVALID_ARGUMENT")),
    (500, error("The input token count (9) exceeds the maximum number of tokens", code=500, status="INTERNAL")),
    (400, error("Unable to submit request because the input token count is 1100000 but model only supports up to 1048576.", code=400)),
    (400, error("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]", code="invalid_parameter_error")),
    (400, {"code": "InvalidParameter", "message": "Total message token length exceed model limit (10000000 tokens)."}),
    (400, error("Total tokens of image and text exceed max message tokens. Request id: 1", code="InvalidParameter")),
    (400, {"error": {"type": "invalid_request_error", "message": "invalid params, context window exceeds limit (2013)"}}),
    (400, {"object": "error", "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", "type": "invalid_request_prompt", "code": "3051"}),
    (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000."}),
    (400, error("Please reduce the length of the messages or completion.", code="context_length_exceeded")),
    (400, error("the request exceeds the available context size, try increasing it", type="exceed_context_size_error", code=400)),
    (500, error("the request exceeds the available context size. try increasing the context size", type="server_error", code=500)),
    (500, error("Context size has been exceeded.", code=500)),
    (400, {"error": "prompt too long; exceeded max context length by 4 tokens"}),
    (400, {"error": "the input length exceeds the context length"}),
    (400, error("This endpoint's maximum context length is 32768 tokens. However, you requested about 40000 tokens", code=400)),
    (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you requested 5020 tokens", "code": 400}),
    (400, {"object": "error", "message": "'max_tokens' or 'max_completion_tokens' is too large: 500. This model's maximum context length is 4096 tokens and your request has 4000 input tokens (500 > 4096 - 4000).", "code": 400}),
    (400, {"object": "error", "message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096.", "code": 400}),
    (400, {"object": "error", "message": "You passed 5000 input tokens. However, the model's context length is only 4096 tokens", "code": 400}),
    (400, {"error": "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens"}),
    (400, {"error": "The number of tokens to keep from the initial prompt is greater than the context length"}),
    (400, {"message": "Input is too long for requested model."}),
    (400, {"error_code": 336103, "error_msg": "Prompt tokens too long"}),
    (400, error("prompt tokens too long", type="invalid_request_error", code="prompt_tokens_too_long")),
    (413, error("Request body too large for gpt-4o model. Max size: 8000 tokens.", code="tokens_limit_reached")),
    (400, error("Your input exceeds the context window of this model. Please adjust your input and try again.")),
    (400, error("m", code="model_max_prompt_tokens_exceeded")),
    (400, error("prompt token count of 140000 exceeds the limit of 128000")),
    (400, {"code": "Client specified an invalid argument", "error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."}),
    (400, error("Please reduce the length of the messages or completion. Current length is 8500 while limit is 8192")),
    (400, {"code": 20015, "message": "length of prompt_tokens (33000) must be less than max_seq_len (32768).", "data": None}),
    (400, error("Requested input length 5000 exceeds maximum input length 4095")),
    (400, error("输入内容过长，超出模型上下文限制")),
    (400, error("litellm.ContextWindowExceededError: litellm.BadRequestError: too long", code="400")),
    (400, error("Provider returned error", code=400, metadata={"raw": '{"error":{"message":"prompt is too long: 2 tokens > 1 maximum"}}'})),
    (400, error("Invalid 'messages[0].content': string too long. Expected a string with maximum length 1048576", code="string_above_max_length")),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), TOO_LONG, ids=range(len(TOO_LONG)))
def test_a_dialogue_that_does_not_fit_has_its_own_kind(status: int, body: Any) -> None:
    failure = classify(status, body)
    assert (failure.kind, failure.retryable) == ("context_length", False)
    with pytest.raises(ErrorInBody) as caught:
        PROTOCOLS["openai"].parse_response(encode_json(body))
    assert caught.value.failure.kind == "context_length"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, error("max_tokens is too large: 100000. This model supports at most 16384 completion tokens"), "invalid_request"),
        (400, error("max_tokens must be less than or equal to 8192"), "invalid_request"),
        (400, error("Range of max_tokens should be [1, 8192]", code="invalid_parameter_error"), "invalid_request"),
        (422, {"error": "Input validation error: `max_new_tokens` must be <= 512. Given: 1000"}, "invalid_request"),
        (400, {"object": "error", "message": "'max_tokens' is too large: 5000. This model's maximum context length is 4096 tokens and your request has 20 input tokens (5000 > 4096 - 20).", "code": 400}, "invalid_request"),
        (400, error("Invalid 'user': string too long. Expected a string with maximum length 64", code="string_above_max_length"), "invalid_request"),
        (429, error("Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested 20000. The input or output tokens must be reduced"), "rate_limit"),
        (400, error("tokens per minute (TPM) limit: input is too long for your tier"), "rate_limit"),
        (413, {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}, "invalid_request"),
        (413, b"<h1>413 Request Entity Too Large</h1>", "invalid_request"),
        (429, {"message": "Too many tokens, please wait before trying again."}, "rate_limit"),
        (400, error("thinking.budget_tokens must be less than max_tokens"), "invalid_request"),
        (400, error("Unsupported value: 'reasoning_effort' length"), "invalid_request"),
    ],
)  # fmt: skip
def test_a_limit_that_is_not_the_context_s_is_no_context_length(status: int, body: Any, kind: str) -> None:
    assert classify(status, body).kind == kind
