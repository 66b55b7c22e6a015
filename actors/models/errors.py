"""How a model backend fails, as answers to whoever asked.

    Unavailable
    ├─ ModelUnreachable        no connection, or the server keeps failing (5xx)
    ├─ ModelRateLimited        429, still after the retries (data: retry_after_s, None if unsaid)
    ├─ ModelInterrupted        the answer broke off after it had begun
    ├─ ModelMalformedAnswer    what came is not a model's answer
    └─ ModelSuspended          it failed too often, and is left alone for a while (data: retry_after_s)
    TimedOut
    └─ ModelTimedOut           silence for too long, or an answer that does not end
    NeedsOperator
    ├─ ModelCredentialRefused  key missing, wrong, or without the right
    ├─ ModelMisconfigured      no such model or address
    ├─ ModelOutOfCredit        the account has no quota left
    └─ ModelNotInstalled       a package or program that this backend needs is missing (data: install_hint)
    BadRequest
    └─ ModelRefusedInput       this input will never do, here; another backend may take it
    TooLarge
    └─ PromptTooLong           past the model's window (data: prompt_tokens, limit_tokens; None if unsaid)

Every one carries `backend` and `model` in its data, and none of them ever holds a credential.
"""

from __future__ import annotations

from ...runtime.errors import BadRequest, NeedsOperator, TimedOut, TooLarge, Unavailable


class ModelUnreachable(Unavailable):
    code = "model_unreachable"


class ModelRateLimited(Unavailable):
    code = "model_rate_limited"


class ModelInterrupted(Unavailable):
    code = "model_interrupted"


class ModelMalformedAnswer(Unavailable):
    code = "model_malformed_answer"


class ModelSuspended(Unavailable):
    code = "model_suspended"


class ModelTimedOut(TimedOut):
    code = "model_timed_out"


class ModelCredentialRefused(NeedsOperator):
    code = "model_credential_refused"


class ModelMisconfigured(NeedsOperator):
    code = "model_misconfigured"


class ModelOutOfCredit(NeedsOperator):
    code = "model_out_of_credit"


class ModelNotInstalled(NeedsOperator):
    code = "model_not_installed"


class ModelRefusedInput(BadRequest):
    code = "model_refused_input"


class PromptTooLong(TooLarge):
    code = "prompt_too_long"
