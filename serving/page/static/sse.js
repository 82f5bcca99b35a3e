// Server-sent events off a response's body: EventSource cannot send a key.

export class Parser {
  constructor() {
    Object.assign(this, { rest: "", data: [], event: "message", retry: null });
  }

  // The events that are complete with this text; one may be spread over several.
  take(text) {
    const found = [];
    const whole = this.rest + text;
    const ends = whole.endsWith("\r") ? whole.length - 1 : whole.length; // its \n may be in the next
    const lines = whole.slice(0, ends).split(/\r\n|\n|\r/);
    this.rest = lines.pop() + whole.slice(ends);
    for (const line of lines) {
      if (line === "") {
        if (this.data.length) found.push({ event: this.event, data: this.data.join("\n") });
        Object.assign(this, { data: [], event: "message" });
        continue;
      }
      if (line.startsWith(":")) continue;
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "data") this.data.push(value);
      else if (name === "event") this.event = value;
      else if (name === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
    }
    return found;
  }
}

export async function* events(response, parser = new Parser()) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.take(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
