"""OpenAI's own SDK with one thing changed: its base_url. The answer can then be read again, from anywhere."""

import os
import sys

from openai import APIError, OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "open-access-needs-none"),
)

stream = client.chat.completions.create(
    # With no key configured, relaystream's demo provider answers to any name.
    model=os.environ.get("MODEL", "gpt-4.1-mini"),
    messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "Explain tides to a sailor."}],
    stream=True,
)
stream_id = stream.response.headers["x-stream-id"]

try:
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
except APIError as error:  # a provider that broke off is an error here, never a short answer
    sys.exit(f"\nthe stream failed: {error}")

print(f"stream {stream_id}", file=sys.stderr)
print(f"read it again: curl -N {client.base_url}streams/{stream_id}/events", file=sys.stderr)
