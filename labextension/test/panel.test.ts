import { type Kernel, KernelMessage } from "@jupyterlab/services";
import { nullTranslator } from "@jupyterlab/translation";
import { Signal } from "@lumino/signaling";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import settingsSchema from "../settings/panel.json";
import example from "../schema/pool_panel.json";
import { type Change, KernelLink, PATIENCE } from "../src/panel/link";
import { questionFor } from "../src/panel/questions";
import { DEFAULTS, readSettings } from "../src/panel/settings";
import { summary } from "../src/panel/summary";
import {
  type Command,
  type Hello,
  isHello,
  isNotice,
  isPoolList,
  type Notice,
  type PoolList,
  VERSION,
} from "../src/protocol";
import { snapshot } from "./example";

const trans = nullTranslator.load("jupyter_pool");

interface Asked {
  type: string;
  content: Record<string, unknown>;
  answer: (content: object) => void;
}

/** What of a kernel's connection a link uses. */
class FakeKernel {
  readonly iopubMessage = new Signal<this, unknown>(this);
  readonly statusChanged = new Signal<this, Kernel.Status>(this);
  readonly connectionStatusChanged = new Signal<this, Kernel.ConnectionStatus>(this);
  readonly disposed = new Signal<this, void>(this);
  readonly clientId = "client";
  readonly username = "somebody";
  readonly isDisposed = false;
  readonly status = "idle";
  readonly asked: Asked[] = [];
  session = "first";

  sendControlMessage(message: KernelMessage.IControlMessage): unknown {
    let answer: (content: object) => void = () => undefined;
    const done = new Promise((resolve) => {
      answer = (content) => {
        resolve({ content });
      };
    });
    expect(message.channel).toBe("control");
    this.asked.push({
      type: message.header.msg_type,
      content: message.content as Record<string, unknown>,
      answer,
    });
    return { done };
  }

  tell(type: string, content: object, parent = ""): void {
    this.iopubMessage.emit({
      channel: "iopub",
      header: { msg_type: type, session: this.session },
      parent_header: { msg_type: parent },
      content,
    });
  }
}

let kernel: FakeKernel;
let link: KernelLink;
let changes: Change[];

const settle = () => vi.advanceTimersByTimeAsync(0);
const hello: Hello = { status: "ok", v: VERSION, pools: [], default: "default", size: 4 };

beforeEach(() => {
  vi.useFakeTimers();
  kernel = new FakeKernel();
  link = new KernelLink(kernel as unknown as Kernel.IKernelConnection);
  changes = [];
  link.changed.connect((_, change) => {
    changes.push(change);
  });
});

afterEach(() => {
  link.dispose();
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

describe("a kernel's link", () => {
  it("asks nothing of a kernel by itself, and has no timer", () => {
    kernel.tell("status", { execution_state: "idle" });
    expect(kernel.asked).toEqual([]);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("knows the pools of a kernel that answers", async () => {
    void link.greet();
    expect(link.standing).toBe("asking");
    expect(kernel.asked.map(({ type }) => type)).toEqual(["pool_hello"]);
    kernel.asked[0]?.answer(example.pool_hello_reply);
    await settle();
    expect(link.standing).toBe("there");
    expect(link.pools).toEqual(["default"]);
    expect(link.startable).toEqual({ name: "default", size: 4 });
  });

  it("takes a kernel that does not answer for one without the extension", async () => {
    void link.greet();
    await vi.advanceTimersByTimeAsync(PATIENCE);
    expect(link.standing).toBe("silent");
    // The answer of a kernel that was only slow.
    kernel.asked[0]?.answer(hello);
    await settle();
    expect(link.standing).toBe("there");
  });

  it("asks nothing when a cell loads the extension and nobody has looked", () => {
    kernel.tell("execute_input", { code: "%load_ext jupyter_pool" });
    kernel.tell("status", { execution_state: "idle" }, "execute_request");
    expect(kernel.asked).toEqual([]);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("says when the kernel has answered, or will not", async () => {
    const answered = link.greet().then(() => link.standing);
    kernel.asked[0]?.answer(hello);
    await expect(answered).resolves.toBe("there");
    kernel.statusChanged.emit("restarting");
    kernel.statusChanged.emit("dead");
    const waited = link.greet().then(() => link.standing);
    await vi.advanceTimersByTimeAsync(PATIENCE);
    await expect(waited).resolves.toBe("silent");
  });

  it("asks again when a cell has loaded the extension", async () => {
    void link.greet();
    await vi.advanceTimersByTimeAsync(PATIENCE);
    kernel.tell("execute_input", { code: "1 + 1" });
    kernel.tell("status", { execution_state: "idle" }, "execute_request");
    expect(kernel.asked).toHaveLength(1);
    kernel.tell("execute_input", { code: "%load_ext jupyter_pool" });
    kernel.tell("status", { execution_state: "idle" }, "pool_hello");
    expect(kernel.asked).toHaveLength(1);
    kernel.tell("status", { execution_state: "idle" }, "execute_request");
    expect(kernel.asked).toHaveLength(2);
    kernel.asked[1]?.answer(hello);
    await settle();
    expect(link.standing).toBe("there");
  });

  it("greets a kernel that tells of pools", async () => {
    kernel.tell("pool_list", example.pool_list);
    expect(link.pools).toEqual(["default"]);
    expect(kernel.asked.map(({ type }) => type)).toEqual(["pool_hello"]);
    kernel.asked[0]?.answer(example.pool_hello_reply);
    await settle();
    expect(changes.map(({ kind }) => kind)).toEqual(["list", "standing", "standing"]);
  });

  it("keeps the latest state of each pool, with what is told now and then", () => {
    kernel.tell("pool_state", snapshot());
    kernel.tell("pool_state", snapshot({ seq: 13, errors: null, sessions: null, waiting: 0 }));
    expect(link.states.get("default")?.waiting).toBe(0);
    expect(link.errors().map(([pool, block]) => [pool, block.id])).toEqual([
      ["default", "a1b2c3d4-4"],
    ]);
    expect(link.sessions()).toEqual([["default", "alice"]]);
    kernel.tell("pool_list", { v: VERSION, pools: [] });
    expect(link.states.size).toBe(0);
  });

  it("says when the kernel speaks another version", async () => {
    kernel.tell("pool_state", { ...snapshot(), v: VERSION + 1 });
    expect(link.standing).toBe("mismatch");
    expect(link.version).toBe(VERSION + 1);
    expect(link.states.size).toBe(0);
    void link.greet();
    kernel.asked[0]?.answer({ ...hello, v: VERSION + 1 });
    await settle();
    expect(link.standing).toBe("mismatch");
  });

  it("forgets everything at a restart, and asks again when the kernel is up", async () => {
    void link.greet();
    kernel.asked[0]?.answer(hello);
    await settle();
    kernel.tell("pool_list", example.pool_list);
    kernel.tell("pool_state", snapshot());
    kernel.statusChanged.emit("restarting");
    expect(link.standing).toBe("unknown");
    expect([link.pools, link.states.size]).toEqual([[], 0]);
    kernel.statusChanged.emit("idle");
    expect(link.standing).toBe("asking");
    await vi.advanceTimersByTimeAsync(PATIENCE);
    expect(link.standing).toBe("silent");
  });

  it("sees a restart in another window by the kernel's new session", async () => {
    void link.greet();
    kernel.asked[0]?.answer(hello);
    await settle();
    kernel.tell("pool_list", example.pool_list);
    kernel.tell("pool_state", snapshot());
    kernel.session = "the server's own";
    kernel.tell("status", { execution_state: "restarting" });
    expect(link.standing).toBe("there");
    kernel.session = "second";
    kernel.tell("status", { execution_state: "busy" });
    expect(link.standing).toBe("asking");
    expect([link.pools, link.states.size, kernel.asked.length]).toEqual([[], 0, 2]);
    kernel.tell("status", { execution_state: "idle" });
    expect(kernel.asked).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(PATIENCE);
    expect(link.standing).toBe("silent");
  });

  it("asks for what it has missed while the connection was gone", async () => {
    void link.greet();
    kernel.asked[0]?.answer(hello);
    await settle();
    kernel.connectionStatusChanged.emit("connecting");
    kernel.connectionStatusChanged.emit("connected");
    expect(kernel.asked).toHaveLength(2);
    kernel.asked[1]?.answer(hello);
    await settle();
  });

  it("sends orders, and hands on why one was refused", async () => {
    const done = link.order("default", { type: "restart", worker: 9 });
    expect(kernel.asked[0]).toMatchObject({
      type: "pool_command",
      content: { v: VERSION, pool: "default", command: { type: "restart", worker: 9 } },
    });
    kernel.asked[0]?.answer(example.pool_command_reply);
    await expect(done).rejects.toThrow("pool 'default' has no worker 9; it has 1, 2");
    const good = link.order("default", { type: "drain" });
    kernel.asked[1]?.answer({ status: "ok" });
    await expect(good).resolves.toBeUndefined();
  });

  it("hands on what has failed later", () => {
    kernel.tell("pool_notice", example.pool_notice);
    expect(changes).toEqual([{ kind: "notice", pool: "default", text: example.pool_notice.text }]);
  });
});

describe("the messages' example", () => {
  it("is of the types", () => {
    const list: PoolList = example.pool_list;
    const notice: Notice = example.pool_notice;
    const commands = example.commands as Command[];
    expect(isHello(example.pool_hello_reply)).toBe(true);
    expect(isPoolList(list)).toBe(true);
    expect(isNotice(notice)).toBe(true);
    expect([isHello({}), isPoolList(null), isNotice({ v: 1 })]).toEqual([false, false, false]);
    const asked = commands.filter((one) => questionFor(one, "default", trans) !== null);
    expect(asked.map(({ type }) => type)).toEqual(["stop", "restart", "cancel", "end_session"]);
  });
});

describe("the status bar", () => {
  it("says how busy pools are", () => {
    expect(summary([], trans)).toBe("");
    expect(summary([snapshot()], trans)).toBe("pool 2/2 busy, 1 queued");
    const other = snapshot({ pool: "b", waiting: 0 });
    expect(summary([snapshot({ waiting: 0 }), other], trans)).toBe("pools 4/4 busy");
  });
});

describe("the settings", () => {
  it("have the schema's defaults", () => {
    const defaults = Object.fromEntries(
      Object.entries(settingsSchema.properties).map(([name, { default: value }]) => [name, value]),
    );
    expect(readSettings(defaults)).toEqual(DEFAULTS);
    expect(readSettings({})).toEqual(DEFAULTS);
    expect(Object.keys(defaults).sort()).toEqual(Object.keys(DEFAULTS).sort());
  });
});
