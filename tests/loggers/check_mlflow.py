"""check_mlflow.py WRITE_LOGS DIR: examples/to_mlflow.py sends a run, and MLflow has the numbers of metrics.jsonl."""
import json
import math
import os
import pathlib
import subprocess
import sys

try:
    import mlflow
except ImportError as missing:
    print(f"skipped: this Python has no MLflow ({missing})")
    sys.exit(77)

write_logs, work = sys.argv[1], pathlib.Path(sys.argv[2])
folder, uri = work / "run", f"sqlite:///{work}/mlflow.db"
script = pathlib.Path(__file__).resolve().parents[2] / "examples" / "to_mlflow.py"
folder.mkdir()
os.chdir(work)  # artifacts go to ./mlruns


def follow(*options):
    return subprocess.run([sys.executable, script, folder, "--uri", uri, "--once", *options], text=True,
                          capture_output=True)


def sent():
    done = follow()
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("moegpt")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1, [r.info for r in runs]
    return client, runs[0]


def check(steps):
    client, run = sent()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

    def same(key, kind, value_of):
        expected = [(r["step"], float(value_of(r))) for r in records if r["kind"] == kind]
        found = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
        assert [s for s, _ in found] == [s for s, _ in expected], (key, found)
        assert all(a == b or (math.isnan(a) and math.isnan(b)) for (_, a), (_, b) in zip(found, expected)), key
        return len(found)

    count = sum(same(key, "train", lambda r: r[key])
                for key in ("loss", "balance_loss", "tokens", "learning_rate", "gradient_norm", "tokens_per_second"))
    for i, layer in enumerate((0, 2)):
        for name in ("max_over_mean", "entropy", "dead", "dropped"):
            count += same(f"layer_{layer}/{name}", "train", lambda r: r[name][i])
    count += same("val_loss", "eval", lambda r: r["val_loss"]) + same("train_loss", "eval", lambda r: r["train_loss"])
    assert records[-1]["step"] == steps
    assert run.data.params["parameters"] == "1000" and run.data.params["option.text"] == "caf\u00e9 <\"'&>"
    assert {a.path for a in client.list_artifacts(run.info.run_id, "samples")} == \
        {f"samples/{s:08d}.txt" for s in range(5, steps + 1, 5)}
    return count


subprocess.run([write_logs, folder, "12"], check=True)
with open(folder / "metrics.jsonl", "a", encoding="utf-8") as log:
    log.write('{"kind":"train","step":13,"lo')  # a line that is being written
check_torn = follow()
assert check_torn.returncode == 0, check_torn.stderr
subprocess.run([write_logs, folder, "12", "12"], check=True)  # the run is resumed, without another step
first = check(12)
subprocess.run([write_logs, folder, "20", "10"], check=True)  # resumed after step 10: steps 11 and 12 again
second = check(20)
assert check(20) == second > first
subprocess.run([sys.executable, script, folder, "--uri", uri, "--poll", "0.1"], check=True, timeout=120)  # it ends

done = subprocess.run([sys.executable, script, folder, "--uri", "http://127.0.0.1:9", "--once", "--patience", "0"],
                      env={**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}, capture_output=True, text=True)
assert done.returncode != 0  # there is no server, and this process alone knows
assert follow("--every", "0").returncode == 2
print(f"MLflow {mlflow.__version__} has {second} numbers and the samples as written, in one run after two resumptions")
