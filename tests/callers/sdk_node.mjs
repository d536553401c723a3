// What Node's SDK hears: as sdk_python.py, for `openai` of npm. usage: node sdk_node.mjs FOLDER < calls.json
import { AsyncLocalStorage } from "node:async_hooks";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { default: OpenAI } = await import(pathToFileURL(`${process.argv[2]}/node_modules/openai/index.mjs`));

const KEY = "sk-test-0123456789abcdef";
const HELLO = [{ role: "user", content: "Hello" }];
const waits = new AsyncLocalStorage();

// Timers are set by others, too: its time-out, and Node's own `fetch`. The one that it waits by before its next try is set
// in a file of that name.
const itsOwn = globalThis.setTimeout;
globalThis.setTimeout = (then, delay, ...rest) => {
  const isWait = new Error().stack.includes("utils/sleep.mjs");
  if (isWait) waits.getStore().push(delay / 1000);
  return itsOwn(then, isWait && process.env.CLOCK !== "real" ? 20 : delay, ...rest);
};

const DIALECTS = {
  async chat(client, stream, options, heard, thought) {
    const answer = await client.chat.completions.create({ model: "served", messages: HELLO, stream }, options);
    if (!stream) heard.push(answer.choices[0].message.content);
    else
      for await (const chunk of answer)
        for (const { delta } of chunk.choices) {
          heard.push(delta.content ?? "");
          thought.push(delta.reasoning_content ?? "");
        }
  },
  async responses(client, stream, options, heard) {
    const answer = await client.responses.create({ model: "served", input: "Hello", stream }, options);
    if (!stream) heard.push(answer.output_text);
    else
      for await (const event of answer) {
        if (event.type === "response.output_text.delta") heard.push(event.delta);
        else if (event.type === "error") throw Object.assign(new Error(event.message), { name: "Told", code: event.code });
      }
  },
};

async function call({ id, url, dialect, stream, headers }) {
  const heard = [];
  const thought = [];
  const said = { id, waits: waits.getStore() };
  try {
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: KEY });
    await DIALECTS[dialect](client, stream, { headers: headers ?? {} }, heard, thought);
  } catch (error) {
    const kind = error.name === "Told" ? "Told" : error.constructor.name;
    Object.assign(said, { error: kind, message: String(error.message), status: error.status ?? null, code: error.code ?? null });
  }
  return { ...said, text: heard.join(""), thought: thought.join("") };
}

const calls = JSON.parse(readFileSync(0, "utf8"));
const said = await Promise.all(calls.map((asked) => waits.run([], call, asked)));
process.stdout.write(JSON.stringify(said));
