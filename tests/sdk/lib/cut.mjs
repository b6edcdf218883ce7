// An answer whose body comes in pieces of one SSE event and fails as a browser's does once `k` of them were read. `headers`
// are added to its own.

export function cut(answer, k, headers = {}) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let [text, n] = ["", 0];
  const stream = new ReadableStream({
    async pull(controller) {
      for (;;) {
        const end = text.indexOf("\n\n");
        if (n === k) {
          reader.cancel().catch(() => {});
          return controller.error(new TypeError("network error"));
        }
        if (end >= 0) {
          n += 1;
          controller.enqueue(text.slice(0, end + 2));
          text = text.slice(end + 2);
          return;
        }
        const { done, value } = await reader.read();
        if (done) return controller.close();
        text += value;
      }
    },
  }, { highWaterMark: 0 });
  const { status } = answer;
  return new Response(stream.pipeThrough(new TextEncoderStream()), { status, headers: { ...Object.fromEntries(answer.headers), ...headers } });
}
