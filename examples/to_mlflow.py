#!/usr/bin/env python3
"""Follows a run of `train` with MLflow: sends what its metrics.jsonl has, then what is added to it.

    pip install mlflow
    examples/to_mlflow.py RUN --uri sqlite:///mlflow.db       # RUN: the run's directory
    mlflow ui --backend-store-uri sqlite:///mlflow.db

A process of its own, so no server can hold up or end the training. A server that does not answer is asked again.
It ends when the log has the run's last step and does not grow any more.
Stopped and started again, it goes on behind the last step that the server has; a resumed run stays one MLflow run.
"""
import argparse
import hashlib
import json
import math
import os
import pathlib
import sys
import time

try:
    import mlflow
    from mlflow.entities import Metric, Param, RunTag
except ImportError:
    sys.exit("to_mlflow.py: this Python has no MLflow: pip install mlflow")

MOST_METRICS, MOST_PARAMS, PARAM_LENGTH = 900, 100, 6000  # of one request
IDENTITY = "moegpt.run"  # the tag by which a run is found again


class Log:
    """The records that metrics.jsonl has gained since the last look. Only complete lines count."""

    def __init__(self, path):
        self.path, self.inode, self.offset = path, None, 0

    def new_records(self):
        """The new records, and whether they begin with the first one: a resumed run has replaced the file."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self.inode or status.st_size < self.offset:
                    self.inode, self.offset = status.st_ino, 0
                begin = self.offset
                file.seek(begin)
                lines = file.read()
        except FileNotFoundError:
            return [], False
        lines = lines[: lines.rfind(b"\n") + 1]
        self.offset += len(lines)
        return [json.loads(line) for line in lines.splitlines()], begin == 0 and len(lines) > 0


def number(value):
    return float(value)  # "nan", "inf" and "-inf" are texts in JSON


def metrics_of(record):
    """Name and value of everything in a training or evaluation record that is a number."""
    if record["kind"] == "eval":
        return {"train_loss": number(record["train_loss"]), "val_loss": number(record["val_loss"])}
    values = {name: number(record[name])
              for name in ("tokens", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "utilisation")}
    values |= {name: number(value) for name, value in record.items() if name.endswith("_loss") and value != 0}
    for name in ("max_over_mean", "entropy", "dead", "dropped"):
        for layer, value in zip(record["layers"], record[name]):
            values[f"layer_{layer}/{name}"] = number(value)
    return values


class Follower:
    def __init__(self, client, experiment, name, every):
        self.client, self.name, self.every = client, name, every
        found = client.get_experiment_by_name(experiment)
        self.experiment = found.experiment_id if found else client.create_experiment(experiment)
        self.run, self.sent = None, {}

    def start(self, first):
        """Finds the MLflow run of a log by its first record, or creates it."""
        identity = hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()[:32]
        found = self.client.search_runs([self.experiment], f"tags.`{IDENTITY}` = '{identity}'", max_results=1)
        if found:
            self.run = found[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
        else:
            tags = {IDENTITY: identity, "mlflow.source.name": "moegpt"}
            self.run = self.client.create_run(self.experiment, run_name=self.name, tags=tags).info.run_id
        # Sent again, parameters with the same values and metrics of the same time are the same.
        params = {name: first[name] for name in ("model", "parameters", "active", "steps", "unit", "version")}
        params |= {f"option.{name}": value for name, value in first["options"].items()}
        params |= {f"baseline.{name}": value for name, value in first["baselines"].items()}
        self.client.log_batch(self.run, params=[Param(name, str(value)[:PARAM_LENGTH] or "-")
                                                for name, value in list(params.items())[:MOST_PARAMS]])
        for kind, metric in (("train", "loss"), ("eval", "val_loss")):
            history = self.client.get_metric_history(self.run, metric)
            self.sent[kind] = max((point.step for point in history), default=-1)

    def send(self, records):
        batch = []
        for record in records:
            kind, step = record["kind"], record["step"]
            if kind == "sample":
                self.client.log_text(self.run, record["text"], f"samples/{step:08d}.txt")
            if kind not in self.sent or step <= self.sent[kind] or (kind == "train" and step % self.every != 0):
                continue
            values = metrics_of(record)
            if len(batch) + len(values) > MOST_METRICS:
                self.flush(batch)
            batch += [Metric(name, value, int(1000 * record["time"]), step) for name, value in values.items()]
        self.flush(batch)

    def flush(self, batch):
        if batch:
            self.client.log_batch(self.run, metrics=batch)
            for kind, metric in (("train", "loss"), ("eval", "val_loss")):
                self.sent[kind] = max([self.sent[kind]] + [m.step for m in batch if m.key == metric])
            batch.clear()

    def finish(self):
        if self.run:
            self.client.set_terminated(self.run, "FINISHED")


def patiently(action, patience):
    """Calls action() until it succeeds; waits longer each time, and gives up after `patience` seconds."""
    wait, since = 1, time.monotonic()
    while True:
        try:
            return action()
        except Exception as error:  # MLflow's, and those of the network libraries below it
            if time.monotonic() - since > patience:
                raise
            print(f"to_mlflow.py: {error}; trying again in {wait} s", file=sys.stderr, flush=True)
            time.sleep(wait)
            wait = min(2 * wait, 60)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=pathlib.Path, help="directory of the run, with metrics.jsonl")
    parser.add_argument("--uri", help="tracking server or database (default: MLFLOW_TRACKING_URI, or MLflow's default)")
    parser.add_argument("--experiment", default="moegpt")
    parser.add_argument("--name", help="of the MLflow run (default: that of the directory)")
    parser.add_argument("--once", action="store_true", help="send what is there, and end")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="send every N-th training step (default 1)")
    parser.add_argument("--poll", type=float, default=2, metavar="SECONDS", help="between looks (default 2)")
    parser.add_argument("--patience", type=float, default=math.inf, metavar="SECONDS",
                        help="how long to try a server that does not answer (default: for ever)")
    options = parser.parse_args()
    if options.every < 1:
        parser.error("--every must be at least 1")
    path = options.run / "metrics.jsonl"
    if not path.is_file():
        parser.error(f"there is no {path}")

    def connect():
        client = mlflow.MlflowClient(options.uri)
        return Follower(client, options.experiment, options.name or options.run.resolve().name, options.every)

    follower, log = patiently(connect, options.patience), Log(path)
    step, steps = 0, math.inf  # of the log's last training record, and of the whole run
    try:
        while True:
            records, restarted = log.new_records()
            if restarted:
                patiently(lambda: follower.start(records[0]), options.patience)
            patiently(lambda: follower.send(records), options.patience)
            for record in records:
                if record["kind"] == "run":
                    steps = record["steps"]
                elif record["kind"] == "train":
                    step = record["step"]
            if options.once or (step >= steps and not records):  # after the last step, and nothing came since
                break
            time.sleep(options.poll)
        follower.finish()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"to_mlflow.py: {path} is not a log of a run: {error!r}")


if __name__ == "__main__":
    main()
