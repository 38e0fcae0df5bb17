// kafkajs writes and reads the records of records.json: node main.js BOOTSTRAP_SERVERS RECORDS
const fs = require("fs");
const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = require("kafkajs");

// kafkajs brings gzip alone; the others are packages of their own, zstd and lz4 need a C compiler.
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
const CODECS = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy };

const [bootstrap, path] = process.argv.slice(2);
const scenarios = JSON.parse(fs.readFileSync(path, "utf8"));
const kafka = new Kafka({ clientId: "golden", brokers: bootstrap.split(","), logLevel: logLevel.NOTHING });

const unhex = (text, times = 1) =>
  text === null ? null : Buffer.concat(Array(times).fill(Buffer.from(text, "hex")));

// Headers are an object: a key that comes twice has a list of values, all in the place of the first.
function headers(pairs) {
  const all = {};
  for (const [key, value] of pairs) {
    const name = Buffer.from(key, "hex").toString("utf8");
    (all[name] ??= []).push(unhex(value));
  }
  return all;
}

const messages = (records) =>
  records.map((record) => ({
    key: unhex(record.key),
    value: unhex(record.value, record.times),
    timestamp: String(record.timestamp),
    headers: headers(record.headers),
    partition: 0,
  }));

async function write(kind, names, transactional) {
  const idempotent = kind !== "";
  const transactionalId = transactional ? "golden-js" : undefined;
  const producer = kafka.producer({ idempotent, transactionalId, maxInFlightRequests: 1 });
  await producer.connect();
  for (const [codec, compression] of Object.entries(CODECS)) {
    for (const name of names) {
      // kafkajs writes no null header value.
      if (name === "header-bytes" || name === "one" || name === "headers" || (name === "big" && codec === "none")) continue;
      const topic = `golden.${name}.${codec}${kind}`;
      const sender = transactional ? await producer.transaction() : producer;
      await sender.send({ topic, messages: messages(scenarios[name]), compression });
      if (transactional) await (name === "two" ? sender.abort() : sender.commit());
    }
  }
  await producer.disconnect();
}

async function read() {
  const consumer = kafka.consumer({ groupId: "golden-js" });
  await consumer.connect();
  await consumer.subscribe({ topics: ["golden.many.gzip"], fromBeginning: true });
  let left = 70;
  await new Promise((resolve) => {
    consumer.run({ eachMessage: async () => --left === 0 && resolve() });
  });
  await consumer.disconnect();
}

async function administer() {
  const admin = kafka.admin();
  await admin.connect();
  const topic = "golden-js-admin";
  // The frames are what is wanted, errors among them.
  const say = (error) => console.log(`  ${error.message}`);
  await admin.createTopics({ topics: [{ topic, numPartitions: 2 }] }).catch(say);
  await admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] }).catch(say);
  await admin.fetchTopicMetadata({ topics: [topic] }).catch(say);
  await admin.fetchTopicOffsets(topic).catch(say);
  await admin.fetchTopicOffsetsByTimestamp("golden.many.gzip", 1700000000010).catch(say);
  await admin.fetchOffsets({ groupId: "golden-js", topics: ["golden.many.gzip"] }).catch(say);
  await admin.describeCluster().catch(say);
  const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic }];
  await admin.describeConfigs({ includeSynonyms: true, resources }).catch(say);
  const configEntries = [{ name: "retention.ms", value: "90000" }];
  await admin.alterConfigs({ resources: [{ ...resources[0], configEntries }] }).catch(say);
  await admin.listGroups().catch(say);
  await admin.describeGroups(["golden-js"]).catch(say);
  await admin.listPartitionReassignments({}).catch(say);
  await admin
    .alterPartitionReassignments({ topics: [{ topic, partitionAssignment: [{ partition: 0, replicas: [1] }] }] })
    .catch(say);
  const acl = { resourceType: 2, resourceName: topic, resourcePatternType: 3, principal: "User:a", host: "*", operation: 3, permissionType: 3 };
  await admin.createAcls({ acl: [acl] }).catch(say);
  await admin.describeAcls(acl).catch(say);
  await admin.deleteAcls({ filters: [acl] }).catch(say);
  await admin.deleteTopicRecords({ topic: "golden.many.none", partitions: [{ partition: 0, offset: "5" }] }).catch(say);
  await admin.deleteGroups(["golden-js"]).catch(say);
  await admin.deleteTopics({ topics: [topic] }).catch(say);
  await admin.disconnect();
}

(async () => {
  const names = Object.keys(scenarios);
  await write("", names, false);
  await write(".idempotent", ["two", "many"], false);
  await write(".transaction", ["two", "many"], true);
  await read();
  await administer();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
