"""A server that speaks OpenAI's chat API and answers by a script: honest, late, wrong, or not at all.

What it bills is written down: a request that comes again under the same ``Idempotency-Key`` is answered from memory and
billed once, as servers that know that header do. ``python -m tests.enrichment.server`` runs it alone.
"""

import argparse
import json
import re
import threading
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-test-0123456789-secret"
MODEL = "scripted-1"


def data_of(messages):
    """Return what stands between the marks of the first message with data."""
    user = next(m["content"] for m in messages if m["role"] == "user")
    found = {}
    for name in ("data", "candidates", "history"):
        match = re.search(rf"<{name}>\n(.*?)\n</{name}>", user, re.S)
        if match:
            found[name] = json.loads(match[1])
    return found


def task_of(messages):
    """Return the task by the schema that the system message holds."""
    schema = json.loads(messages[0]["content"].rsplit("\n", 1)[1])
    return next(iter(schema["required"]))


def honest(messages, body):
    """Return a fair answer in other words than the data."""
    data = data_of(messages)
    chinese = "JSON 数据" in messages[0]["content"]
    item = data.get("data", {})
    title = str(item.get("title", "")) or "someone"
    if chinese:
        answers = {
            "attributes": [{"name": "体裁", "value": "小说", "basis": "guess", "confidence": 0.6}],
            "summary": f"这是一部关于{title}的作品，适合喜欢安静故事、愿意慢慢体会人物命运的读者。",
            "intents": [{"who": "喜欢慢节奏故事的人", "when": "想在冬夜安静地读书时", "confidence": 0.7}],
            "questions": ["有什么适合冬夜读的安静故事？"],
            "profile": "这位读者喜欢安静而深沉的故事，最近越来越偏爱历史题材和人物命运的描写。",
        }
    else:
        answers = {
            "attributes": [
                {"name": "kind", "value": title[:40], "basis": "text", "confidence": 0.9},
                {"name": "mood", "value": "calm", "basis": "guess", "confidence": 0.4},
            ],
            "summary": f"Told plainly, {title} is something for people who like to take their time with it.",
            "intents": [{"who": "someone who knows little of it", "when": f"before {title}", "confidence": 0.7}],
            "questions": ["What suits a quiet evening with nothing else to do?"],
            "profile": "This person likes the sea and those who are at odds with it, and turns to older times of late.",
        }
    task = task_of(messages)
    if task == "relations":
        kinds = ("substitute", "complement", "sequel")
        ties = [
            {"item": one["item"], "kind": kinds[n % 3], "reason": "同一题材" if chinese else "of the same kind"}
            for n, one in enumerate(data["candidates"][:2])
        ]
        return {"relations": [{**tie, "confidence": 0.8} for tie in ties]}
    if task == "profile":
        return {"profile": answers[task], "likes": ["历史"] if chinese else ["the sea"], "confidence": 0.8}
    if task == "summary":
        return {"summary": answers[task], "confidence": 0.9}
    return {task: answers[task]}


def cut(text):
    return text[: len(text) * 2 // 3]


FAULTS = {
    "cut": lambda text, answer: cut(text),
    "fenced": lambda text, answer: f"Here you are:\n```json\n{text}\n```\nAnything else?",
    "thoughts": lambda text, answer: f"<think>what is {{this}}?</think>{text}",
    "wrong-schema": lambda text, answer: json.dumps({"result": answer}),
    "empty": lambda text, answer: "",
    "no-words": lambda text, answer: json.dumps({**answer, "summary": "ok"}),
    "french": lambda text, answer: json.dumps(
        {
            "summary": "Une histoire calme pour les gens qui aiment prendre leur temps avec un bon livre.",
            "confidence": 1,
        }
    ),
    "chinese": lambda text, answer: json.dumps(
        {"summary": "这是一个安静的故事，适合慢慢读的人。" * 2, "confidence": 1}
    ),
    "price": lambda text, answer: json.dumps(
        {"summary": "A quiet story for those who have time, and only $4.99 in the shop today.", "confidence": 1}
    ),
    "boilerplate": lambda text, answer: json.dumps(
        {"summary": "As an AI language model I would say that this is something for all people.", "confidence": 1}
    ),
    "same": lambda text, answer: json.dumps(
        {"summary": "A work that tells of many things which people of all times have cared about.", "confidence": 1}
    ),
    "long": lambda text, answer: json.dumps({**answer, "summary": "word " * 20_000}),
    "half-a-character": lambda text, answer: text.replace("plainly", "\ud83d"),
    "leaks-key": lambda text, answer: json.dumps({**answer, "summary": f"{answer.get('summary')} {KEY}"}),
}


class Scripted:
    """The server's mind: a script, limits, and the books.

    Parameters
    ----------
    plan : mapping of str to list of str
        For items whose title holds the word: what happens to the first, second ... request about it; then honest.
    always : sequence of str
        What happens to every request, in turn; then honest.
    rate : float
        Requests a second that are taken; 0 is all. What is above is answered with 429.
    latency : float
        Seconds until an answer.
    """

    def __init__(self, plan=None, always=(), rate=0.0, latency=0.0, answer=honest, knows_keys=True):
        self.plan = {word: list(actions) for word, actions in (plan or {}).items()}
        self.always, self.rate, self.latency, self.answer = list(always), rate, latency, answer
        self.knows_keys = knows_keys
        self.lock = threading.Lock()
        self.log, self.headers = [], []
        self.computed, self.statuses = Counter(), Counter()
        self.memory = {}
        self.titles = defaultdict(int)
        self.room, self.filled = max(rate, 1.0), time.monotonic()
        self.times = []  # when each answer was computed
        self.refuses = set()  # parameters that it does not take
        self.models = [MODEL, "other-2"]

    def action(self, title):
        with self.lock:
            if self.always:
                return self.always.pop(0)
            for word, actions in self.plan.items():
                if word in title and actions:
                    return actions.pop(0) if len(actions) > 1 or actions[0] != "..." else "..."
        return "ok"

    def is_too_fast(self):
        if not self.rate:
            return False
        with self.lock:
            now = time.monotonic()
            self.room = min(self.rate, self.room + (now - self.filled) * self.rate)
            self.filled = now
            if self.room < 1:
                return True
            self.room -= 1
            return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    mind: Scripted

    def log_message(self, *_):
        pass

    def send(self, status, value, headers=None):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.mind.statuses[status] += 1
        head = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        head += [f"{k}: {v}" for k, v in (headers or {}).items()]
        self.wfile.write("\r\n".join([*head, "", ""]).encode() + body)

    def fail(self, status, message, headers=None, code=None):
        self.send(status, {"error": {"message": message, "type": "error", "code": code}}, headers)

    def do_GET(self):
        if self.path.startswith("/bill"):  # what was computed, and when, from the n-th answer on
            mind, n = self.mind, int(self.path.partition("?")[2] or 0)
            with mind.lock:
                times = [mind.times[n], mind.times[-1]] if len(mind.times) > n else [0.0, 0.0]
                return self.send(200, {"questions": len(mind.computed), "answers": len(mind.times), "times": times})
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self.fail(401, f"Incorrect API key provided: {self.headers.get('Authorization')}")
        elif self.path.endswith("/models") and self.mind.models is not None:
            models = [{"id": m, "object": "model", "created": 0, "owned_by": "us"} for m in self.mind.models]
            self.send(200, {"object": "list", "data": models})
        else:
            self.fail(404, "no such route")
        return None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        mind, name = self.mind, self.headers.get("Idempotency-Key", "")
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            return self.fail(401, f"Incorrect API key provided: {self.headers.get('Authorization')}")
        if mind.is_too_fast():
            return self.fail(429, "too fast", {"retry-after-ms": "50"})
        if body["model"] not in (mind.models or [body["model"]]):
            return self.fail(404, f"The model {body['model']} does not exist", code="model_not_found")
        for parameter in mind.refuses:
            kind = body.get("response_format", {}).get("type")
            if parameter in body or parameter == kind:
                word = f"response_format of type {kind}" if parameter == kind else parameter
                return self.fail(400, f"Unsupported parameter: {word} is not supported, use another instead")
        title = str(data_of(body["messages"]).get("data", {}).get("title", ""))
        with mind.lock:
            mind.log.append(body)
            mind.headers.append({name.lower(): value for name, value in self.headers.items()})
            known = mind.memory.get(name) if mind.knows_keys else None
        if known is not None:
            return self.send(200, known)
        return self.play(mind.action(title), body, name)

    def play(self, action, body, name):
        mind = self.mind
        if action.startswith("429"):
            return self.fail(429, "slow down", {"Retry-After": action.partition(":")[2] or "0"})
        if action == "no-credit":
            return self.fail(429, "You exceeded your current quota", code="insufficient_quota")
        if action in ("400", "500", "502", "503"):
            return self.fail(int(action), f"failed for {self.headers.get('Authorization')}")
        if action.startswith("stall"):
            time.sleep(float(action.partition(":")[2] or 3))
            return self.fail(504, "late")
        if action == "hang-up":
            self.close_connection = True
            return None
        if action == "no-json":
            return self.send(200, b'{"choices": [{"mess')
        if action == "huge":
            return self.send(200, b'{"choices": "' + b"x" * 5_000_000 + b'"}')
        time.sleep(mind.latency)
        answer = mind.answer(body["messages"], body)
        text = json.dumps(answer, ensure_ascii=False)
        if action in FAULTS:
            text = FAULTS[action](text, answer)
        n_in = sum(len(m["content"]) for m in body["messages"]) // 4
        value = {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": n_in, "completion_tokens": len(text) // 4, "total_tokens": 0},
        }
        with mind.lock:
            mind.times.append(time.monotonic())
            mind.computed[name] += 1
            mind.memory[name] = value
        return self.send(200, value)


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """Say nothing: clients that hang up are what is tested."""


class Server:
    """Runs a mind on a free port in threads; ``with Server(Scripted()) as server: server.address``."""

    def __init__(self, mind=None, port=0):
        self.mind = mind or Scripted()
        handler = type("Handler", (Handler,), {"mind": self.mind})
        self.http = Listener(("127.0.0.1", port), handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self):
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--port", type=int, default=8000)
    options.add_argument("--rate", type=float, default=0.0, help="requests a second")
    options.add_argument("--latency", type=float, default=0.1, help="seconds")
    options.add_argument("--forgets", action="store_true", help="do not know idempotency keys")
    given = options.parse_args()
    mind = Scripted(rate=given.rate, latency=given.latency, knows_keys=not given.forgets)
    server = Server(mind, given.port)
    print(f"OPENAI_BASE_URL={server.address} OPENAI_API_KEY={KEY}, model {MODEL}", flush=True)
    server.http.serve_forever()


if __name__ == "__main__":
    main()
