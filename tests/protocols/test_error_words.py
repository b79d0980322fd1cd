"""What gateways say in an error, in the words, codes and shapes of each vendor, gets its kind."""

from __future__ import annotations

from typing import Any

import pytest

from convbatch.protocols.error_mapping import classify_error
from convbatch.protocols.wire import encode_json
from convbatch.reply import Failure


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
