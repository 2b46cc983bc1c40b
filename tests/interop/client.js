// Runs steps with nats.js and its base64 key codec, and prints the result of each step as one JSON list.
//
// Arguments: the server's URL, the bucket, and a JSON list of steps, each `[verb, argument...]`.
// A step that fails gives `{"error": <the message>}`.

const { connect } = require("@nats-io/transport-node");
const { Base64KeyCodec, Kvm, NoopKvCodecs } = require("@nats-io/kv");

const entry = (e) => ({
  key: e.key,
  stored: e.rawKey,
  value: e.string(),
  revision: e.revision,
  operation: e.operation,
});

async function all(entries, last = () => false) {
  const seen = [];
  for await (const e of entries) {
    seen.push(typeof e === "string" ? e : entry(e));
    if (last(e, seen)) break;
  }
  return seen;
}

// `plain` has no key codec, and shows the stored keys.
const verbs = {
  put: ({ kv }, key, value) => kv.put(key, value),
  create: ({ kv }, key, value) => kv.create(key, value),
  update: ({ kv }, key, value, revision) => kv.update(key, value, revision),
  delete: ({ kv }, key) => kv.delete(key).then(() => true),
  purge: ({ kv }, key) => kv.purge(key).then(() => true),
  get: async ({ kv }, key) => {
    const e = await kv.get(key);
    return e && entry(e);
  },
  history: async ({ kv }, key) => all(await kv.history({ key })),
  keys: async ({ kv }, filter) => (await all(await kv.keys(filter))).sort(),
  stored: async ({ plain }) => (await all(await plain.keys())).sort(),
  // Puts a record under `signal` once it watches, and returns the first `count` entries after that.
  watch: async ({ kv }, filter, count, signal) => {
    const entries = await kv.watch({ key: filter, include: "updates" });
    const seen = all(entries, (_, seen) => seen.length === count);
    await kv.put(signal, "{}");
    return seen;
  },
};

async function main(servers, bucket, steps) {
  const nc = await connect({ servers });
  const kvm = new Kvm(nc);
  const open = (key) => kvm.open(bucket, { codec: { ...NoopKvCodecs(), key } });
  const client = { kv: await open(Base64KeyCodec()), plain: await open(NoopKvCodecs().key) };
  const results = [];
  for (const [verb, ...args] of JSON.parse(steps)) {
    try {
      results.push(await verbs[verb](client, ...args));
    } catch (error) {
      results.push({ error: error.message });
    }
  }
  console.log(JSON.stringify(results));
  await nc.close();
}

main(...process.argv.slice(1));
