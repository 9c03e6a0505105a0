// The story of examples/by_hand.py, told with Daytona's TypeScript SDK. It reads DAYTONA_API_URL and DAYTONA_API_KEY.

import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

import { Daytona, DaytonaConflictError, DaytonaNotFoundError, GpuType, Image } from "@daytona/sdk";

const MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF";
const SERVED_AS = "smollm2";
const SESSION = "llama";
const BOOT_SECONDS = 900;
const NAME = `by-hand-${randomBytes(4).toString("hex")}`;
const LABELS = { example: "by-hand", run: NAME };
const MESSAGES = [{ role: "user", content: "What is the capital of France? Answer with one word." }];

/** Whether something on this machine listens on the port: local sandboxes share its ports. */
function taken(port) {
  return new Promise((resolve) => {
    const probe = connect(port, "127.0.0.1");
    probe.once("connect", () => resolve(true)).once("error", () => resolve(false));
    probe.once("connect", () => probe.destroy());
  });
}

async function freePort() {
  let port = 8000;
  while (await taken(port)) port = randomInt(8001, 10_000);
  return port;
}

async function create(daytona) {
  const image = Image.base("ghcr.io/ggml-org/llama.cpp:server-cuda");
  const resources = { gpu: 1, gpuType: [GpuType.H100, GpuType.RTX_PRO_6000] };
  const lifetime = { ephemeral: true, autoStopInterval: 0, ttlMinutes: 60 };
  const built = [];
  const sandbox = await daytona.create(
    { name: NAME, labels: LABELS, image, resources, ...lifetime },
    { timeout: 600, onSnapshotCreateLogs: (chunk) => built.push(chunk) },
  );
  assert.equal(sandbox.state, "started");
  assert.equal(sandbox.gpuType, "H100");
  console.log("built:", JSON.stringify(built.join("")));
  return sandbox;
}

async function serve(sandbox, port) {
  const flags = `-hf ${MODEL} --alias ${SERVED_AS} --port ${port} --threads 1 --ctx-size 2048`;
  await sandbox.process.createSession(SESSION);
  const request = { command: `PATH="$PATH:/app" llama-server ${flags}`, runAsync: true };
  const { cmdId } = await sandbox.process.executeSessionCommand(SESSION, request);
  return cmdId;
}

/** Until the server answers; meanwhile its log is shown, of which each request brings the whole. */
async function healthy(sandbox, command, url, headers) {
  const deadline = Date.now() + BOOT_SECONDS * 1000;
  for (let shown = 0; Date.now() < deadline; await sleep(500)) {
    const { exitCode } = await sandbox.process.getSessionCommand(SESSION, command);
    const answer = await fetch(`${url}/health`, { headers, redirect: "manual" }).catch(() => null);
    await answer?.arrayBuffer();
    const { stderr } = await sandbox.process.getSessionCommandLogs(SESSION, command);
    process.stderr.write(stderr.slice(shown));
    shown = stderr.length;
    assert.equal(exitCode ?? null, null, "llama-server ended");
    if (answer?.status === 200) return;
  }
  assert.fail(`not healthy after ${BOOT_SECONDS} s`);
}

function chat(url, headers, more) {
  const body = JSON.stringify({ model: SERVED_AS, messages: MESSAGES, temperature: 0, max_tokens: 16, ...more });
  return fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { ...headers, "content-type": "application/json" },
    body,
  });
}

async function ask(url, headers) {
  const reply = await (await chat(url, headers)).json();
  console.log("chat:", reply.choices[0].message.content);
  const answer = await chat(url, headers, { stream: true });
  const pieces = [];
  let text = "";
  for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
    const lines = (text + chunk).split("\n");
    text = lines.pop();
    const events = lines.filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)));
    pieces.push(...events.map((event) => event.choices[0]?.delta.content ?? ""));
  }
  console.log("stream:", pieces.join("|"));
}

/** From inside the sandbox the server is plain localhost: no token, no proxy. */
async function askInside(sandbox, port) {
  const url = `http://localhost:${port}/v1/models`;
  const code = `import urllib.request\nprint(urllib.request.urlopen("${url}").read().decode())`;
  const ran = await sandbox.process.codeRun(code);
  assert.equal(ran.exitCode, 0, ran.result);
  console.log("inside:", JSON.parse(ran.result).data[0].id);
  const failed = await sandbox.process.executeCommand('printf "%s" "$WORD"; exit 3', undefined, { WORD: "three" });
  console.log("exit code:", failed.exitCode, failed.result);
}

async function files(sandbox) {
  const content = Buffer.from("naïve\0bytes\r\n");
  await sandbox.fs.uploadFile(content, "notes/content.bin");
  const back = await sandbox.fs.downloadFile("notes/content.bin");
  assert.deepEqual(Buffer.from(back), content);
  const listed = await sandbox.fs.listFiles("notes");
  console.log("files:", listed.map((file) => `${file.name} ${file.size}`).join(", "));
  await assert.rejects(sandbox.fs.downloadFile("notes/none"), DaytonaNotFoundError);
}

/** The log of a command as it is written, through a websocket. */
async function follow(sandbox) {
  const request = { command: "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.1; done", runAsync: true };
  await sandbox.process.createSession("follow");
  const { cmdId } = await sandbox.process.executeSessionCommand("follow", request);
  const streams = { out: "", err: "" };
  const add = (name) => (chunk) => (streams[name] += chunk);
  await sandbox.process.getSessionCommandLogs("follow", cmdId, add("out"), add("err"));
  console.log("followed:", JSON.stringify(streams));
  await sandbox.process.deleteSession("follow");
}

async function share(sandbox, port) {
  const status = async (url) => (await fetch(`${url}/v1/models`, { redirect: "manual" })).status;
  const revoked = await sandbox.getSignedPreviewUrl(port, 3600);
  console.log("signed:", await status(revoked.url));
  await sandbox.expireSignedPreviewUrl(port, revoked.token);
  console.log("revoked:", await status(revoked.url));
  const brief = await sandbox.getSignedPreviewUrl(port, 1);
  const deadline = Date.now() + 30_000;
  while ((await status(brief.url)) !== 401 && Date.now() < deadline) await sleep(100);
  console.log("expired:", await status(brief.url));
}

async function listed(daytona) {
  const names = [];
  for await (const one of daytona.list({ labels: LABELS })) names.push(one.name);
  return names;
}

/** By name: that finds the sandbox even if the answer to its creation was lost. */
async function remove(daytona) {
  for (;;) {
    try {
      await (await daytona.get(NAME)).delete(60, true);
    } catch (error) {
      if (error instanceof DaytonaNotFoundError) return;
      if (!(error instanceof DaytonaConflictError)) throw error;
      await sleep(1000);
    }
  }
}

const daytona = new Daytona({ target: "us-east-1" });
try {
  const sandbox = await create(daytona);
  console.log("created:", sandbox.name);
  const port = await freePort();
  const command = await serve(sandbox, port);
  const { url, token } = await sandbox.getPreviewLink(port);
  const headers = { "x-daytona-preview-token": token };
  await healthy(sandbox, command, url, headers);
  await ask(url, headers);
  await askInside(sandbox, port);
  await files(sandbox);
  await follow(sandbox);
  await share(sandbox, port);
  console.log("listed:", await listed(daytona));
} finally {
  await remove(daytona);
  console.log("gone:", NAME, await listed(daytona));
  await daytona[Symbol.asyncDispose]();
}
