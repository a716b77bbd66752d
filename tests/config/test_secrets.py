from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosweep.config.secrets import find_secrets, looks_secret, masked, refuse_secrets
from mosweep.core.errors import ConfigError

SECRET_KEYS = [
    *(
        "api_key",
        "apikey",
        "api-key".replace("-", "_"),
        "OPENAI_API_KEY",
        "openai_api_key",
        "secret",
        "secret_key",
        "client_secret",
    ),
    *(
        "password",
        "passwd",
        "passphrase",
        "credentials",
        "credential",
        "token",
        "hf_token",
        "HF_TOKEN",
        "access_token",
        "auth_token",
    ),
    *("refresh_token", "bearer", "private_key", "access_key", "db-password", "auth"),
]
FINE_KEYS = [
    *("max_tokens", "tokenizer", "token_limit", "tokens", "max_new_tokens"),
    *("n_tokens", "tokenizer.max_seq_len", "token_type", "tokenizer.path"),
    *("inspect.max_tokens", "inspect.token_limit", "torchtune.tokenizer._component_"),
    *("eos_token", "tokenizer.pad_token", "bos_token", "unk_token"),
    *("keys", "key", "key_metric", "monkey", "author", "authors", "passwordless"),
    *("secretary", "lora.rank", "api", "api_key_name", "donkey_token_count"),
    *("sort_key", "primary_key", "mask_token", "stop_token"),
]
SECRETS = [
    *("sk-abcdefghijklmnop1234", "sk-proj-aaaaBBBB1111_2222-3333", "hf_abcdefghijklmnopqrstuv"),
    *("ghp_abcdefghijklmnopqrstuv", "AKIAABCDEFGHIJKLMNOP"),
    *(
        "xoxb-123456789012-abc",
        "tml-abcdefghijklmnop12",
        "https://me:pass@example.org/x",
        "-----BEGIN RSA PRIVATE KEY-----",
    ),
    *("AIzaabcdefghijklmnopqrstuvwxyz1234567", "sk_live_abcdefghij12"),
]
FINE_VALUES = [
    *(
        "sketch",
        "sk-1",
        "hf_hub",
        "tiny",
        "0.5",
        "https://example.org/x",
        "meta-llama/Llama-3.2-1B",
    ),
    *("s3://bucket/key", "risk-averse-long-name-of-x"),
    *(
        "[a,b]",
        "openai/gpt-4o-mini",
        "file:///data/x.jsonl",
        "http://localhost:8000/v1",
        "/data/me@home:1/x",
    ),
]

prefixes = st.sampled_from(["", "+", "++", "torchtune.", "inspect.", "+inspect.model_args."])
values = st.text(min_size=6).filter(lambda value: len(value.strip("'\" ")) > 5)


@given(prefixes, st.sampled_from(SECRET_KEYS), values)
def test_keys_that_name_a_secret_are_refused_without_repeating_it(
    prefix: str, key: str, value: str
) -> None:
    with pytest.raises(ConfigError, match="environment") as caught:
        refuse_secrets(["lora.rank=4", f"{prefix}{key}={value}"])
    told = (
        f"{caught.value}{caught.value.args!r}{caught.value.__cause__!r}{caught.value.__context__!r}"
    )
    assert value not in told or value in f"{prefix}{key}"
    assert key in str(caught.value)


@given(prefixes, st.sampled_from(SECRETS), st.text("abcx_ ", max_size=4))
def test_values_that_look_like_a_secret_are_refused_without_repeating_them(
    prefix: str, secret: str, around: str
) -> None:
    for argument in (
        f"{prefix}note='{around} {secret}'",
        f"{prefix}x={secret}",
        secret,
        f"treatments={{x:[{secret}]}}",
    ):
        with pytest.raises(ConfigError, match="environment") as caught:
            refuse_secrets([argument])
        assert secret not in f"{caught.value}{caught.value.args!r}"


@pytest.mark.parametrize("key", FINE_KEYS)
def test_keys_that_only_sound_like_secrets_are_fine(key: str) -> None:
    for value in ("5", "abc", "<|end|>", "some longer text"):
        refuse_secrets([f"{key}={value}", f"+{key}={value}", f"torchtune.{key}={value}"])


@pytest.mark.parametrize("key", SECRET_KEYS)
@pytest.mark.parametrize("value", ["", "null", "''", "NULL"])
def test_a_secret_that_is_not_given_is_fine(key: str, value: str) -> None:
    refuse_secrets([f"{key}={value}"])


@given(
    st.lists(
        st.builds("{}={}".format, st.sampled_from(FINE_KEYS), st.sampled_from(FINE_VALUES))
        | st.sampled_from(["-m", "--cfg", "job", *FINE_KEYS])
    )
)
def test_what_is_fine_is_let_through(arguments: list[str]) -> None:
    refuse_secrets(arguments)


def test_a_deleted_key_is_fine() -> None:
    refuse_secrets(["~api_key"])


def test_looks_secret_tells_by_key_or_by_value() -> None:
    assert looks_secret("api_key", "abc")
    assert looks_secret("note", SECRETS[0])
    assert not looks_secret("note", "abc")
    assert not looks_secret("api_key", "null")


@pytest.mark.parametrize(
    "text",
    [
        "{key}: {value}",
        '{{"a": 1, "{key}": "{value}"}}',
        "x: {{{key}: {value}}}",
        "  {key}: '{value}'",
        "{key}={value}",
    ],
)
def test_secrets_in_text_are_found_by_their_keys(text: str) -> None:
    for key in ("api_key", "HF_TOKEN", "password", "backend.secret"):
        assert find_secrets("fine: 1\n" + text.format(key=key, value="hunter2"), keys=True) == [
            f"line 2 ({key})"
        ]
        assert find_secrets(text.format(key=key, value="hunter2"), keys=False) == []
        for value in ("null", "true", "12", "1.5e-3", ""):
            assert (
                find_secrets(text.format(key=key, value=value).replace("''", ""), keys=True) == []
            )
    for key in ("max_tokens", "pad_token", "token_limit", "author"):
        assert find_secrets(text.format(key=key, value="abc"), keys=True) == []


@given(st.sampled_from(SECRETS), st.text("abcx_ :", max_size=4))
def test_secrets_in_text_are_found_by_their_looks(secret: str, around: str) -> None:
    assert find_secrets(f"{around}\n{around} {secret} {around}", keys=False) == ["line 2"]
    found = masked(
        {"a": [{"note": f"see {secret}"}], "api_key": "abc", "n": 1, "fine": ["x", None]}
    )
    assert found == {
        "a": [{"note": "(looks like a secret)"}],
        "api_key": "(looks like a secret)",
        "n": 1,
        "fine": ["x", None],
    }


FREE = ("inspect.task_args.", "+inspect.task_args.", "++inspect.task_args.locks.")


@pytest.mark.parametrize("prefix", FREE)
def test_a_tasks_own_arguments_have_any_name(prefix: str) -> None:
    for key in SECRET_KEYS:
        refuse_secrets([f"{prefix}{key}=tulip,none"])
        for secret in SECRETS:
            with pytest.raises(ConfigError, match="environment"):
                refuse_secrets([f"{prefix}{key}={secret}"])


def test_they_are_shown_and_packed() -> None:
    config = {"inspect": {"task_args": {"password": "tulip"}, "model_args": {"api_key": "x"}}}
    assert masked(config) == {
        "inspect": {
            "task_args": {"password": "tulip"},
            "model_args": {"api_key": "(looks like a secret)"},
        }
    }
    assert masked({"inspect.task_args.password": ["tulip"]}) == {
        "inspect.task_args.password": ["tulip"]
    }
    text = "password: tulip\napi_key: abc\ninspect.task_args.token: rose\n"
    assert find_secrets(text, keys=True, free={"password"}) == ["line 2 (api_key)"]
