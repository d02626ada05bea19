"""Cluster files: each is filled in, and held against the schema of what reads it."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.cluster import render as files
from raudio.cluster.render import names, read, render
from raudio.core.errors import ConfigError

#: What must be given.
NEEDED = {
    "local": [],
    "aws-spot": ["ami=ami-0123456789abcdef0", "instance_profile=raudio"],
    "gcp-spot": [
        "project=mine",
        "service_account=raudio@mine.iam.gserviceaccount.com",
        "vm_image=projects/deeplearning-platform-release/global/images/family/common-gpu",
    ],
    "kuberay-raycluster": ["image=registry.example/raudio:1"],
    "kuberay-rayjob": [
        "image=registry.example/raudio:1",
        "run=s3://bucket/runs/a",
        "command=raudio search dataset.path=s3://bucket/fsdd 'optimizer.lr=choice(0.1, 0.01)'",
    ],
    "slurm": ["run=/shared/runs/a", "command=search dataset.path=/shared/fsdd"],
}


def content(name: str, *settings: str) -> Any:
    return yaml.safe_load(render(name, [*NEEDED[name], *settings]))


def test_all_files_are_tested() -> None:
    assert set(names()) == set(NEEDED)
    for path in names().values():
        template = read(path)
        for key in template.keys.values():
            assert key.help
            assert f"{{{{{key.name}}}}}" in template.body, f"{path}: {key.name} is not used"


@pytest.mark.parametrize("name", NEEDED)
def test_nothing_is_left_to_fill_in(name: str) -> None:
    text = render(name, NEEDED[name])
    assert "{{" not in text
    assert "#:" not in text
    assert render(name, NEEDED[name]) == text


@pytest.mark.parametrize("name", ["local", "aws-spot", "gcp-spot"])
def test_rays_launcher_takes_it(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = content(name)
    assert set(config) - {"available_node_types"} <= schema_keys()
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    if name == "local":
        return
    groups = prepared["available_node_types"]
    assert groups["head"]["max_workers"] == 0
    assert [groups[group]["min_workers"] for group in ("gpu", "data")] == [0, 0]
    assert "safe" in groups["head"]["resources"]
    assert not any("safe" in groups[group]["resources"] for group in ("gpu", "data"))
    assert groups["data"]["labels"]["raudio/role"] == "data"
    assert "raudio/role" not in groups["gpu"]["labels"]
    starts = prepared["worker_start_ray_commands"]
    assert "raudio cluster watch-spot" in starts[-1]
    assert not any("watch-spot" in start for start in prepared["head_start_ray_commands"])
    assert "-e RAY_AUTH_MODE=token" in prepared["docker"]["run_options"]
    installs = prepared["worker_setup_commands"][0]
    for package in ("ray[default]", "raudio", "torch", "torchaudio", "optuna", "soxr", "numpy"):
        assert re.search(rf'"{re.escape(package)}==[\w.]+"', installs)


def schema_keys() -> set[str]:
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    return set(schema["properties"])


@pytest.mark.slow
def test_aws_takes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All that `ray up` does before it starts machines, and the request that starts them."""
    import boto3
    from moto import mock_aws
    from moto.ec2.models import instance_types
    from ray.autoscaler._private.aws import utils
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    wanted = ("m5.xlarge", "g5.xlarge", "m5.2xlarge")  # of a thousand types, listed for a minute
    for name in set(instance_types.INSTANCE_TYPES) - set(wanted):
        monkeypatch.delitem(instance_types.INSTANCE_TYPES, name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    utils.resource_cache.cache_clear()
    utils.client_cache.cache_clear()
    try:
        with mock_aws():
            boto3.client("iam").create_instance_profile(InstanceProfileName="raudio")
            ec2 = boto3.client("ec2", "us-west-2")
            image = ec2.describe_images()["Images"][0]["ImageId"]
            config = yaml.safe_load(render("aws-spot", [f"ami={image}", "instance_profile=raudio"]))
            made = bootstrap_aws(prepare_config(config))
            made = AWSNodeProvider.fillout_available_node_types_resources(made)
            groups = made["available_node_types"]
            assert groups["head"]["resources"]["CPU"] == 2  # not those that AWS says it has
            assert groups["gpu"]["resources"]["GPU"] == 1
            assert groups["data"]["resources"]["CPU"] == 8
            provider = AWSNodeProvider(made["provider"], "raudio")
            for group in groups.values():
                provider.create_node(copy.deepcopy(group["node_config"]), {}, 1)
            started = [
                instance
                for reservation in ec2.describe_instances()["Reservations"]
                for instance in reservation["Instances"]
            ]
            kinds = {i["InstanceType"]: i.get("InstanceLifecycle", "on-demand") for i in started}
            assert kinds == {"m5.xlarge": "on-demand", "g5.xlarge": "spot", "m5.2xlarge": "spot"}
            assert all("raudio" in i["IamInstanceProfile"]["Arn"] for i in started)
    finally:
        utils.resource_cache.cache_clear()
        utils.client_cache.cache_clear()


@pytest.mark.parametrize("name", ["kuberay-raycluster", "kuberay-rayjob"])
def test_kuberays_autoscaler_takes_it(name: str) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    manifest = content(name, "max_gpu=3", "gpus=2", "gpu_cpus=5")
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(
        {"metadata": manifest["metadata"], "spec": spec}
    )
    groups = config["available_node_types"]
    assert groups["headgroup"]["resources"]["safe"] == 100
    assert groups["gpu"]["resources"] == {"CPU": 5, "GPU": 2, "memory": 24 * 2**30}
    assert (groups["gpu"]["min_workers"], groups["gpu"]["max_workers"]) == (0, 3)
    assert groups["data"]["labels"]["raudio/role"] == "data"
    assert config["idle_timeout_minutes"] == 5


#: The fields of ray.io/v1 in KubeRay 1.6, as its API reference lists them.
FIELDS = {
    "RayJob": {
        *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate"),
        *("metadata", "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy"),
        *("entrypoint", "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources"),
        *("entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished", "suspend"),
        *("shutdownAfterJobFinishes", "preRunningDeadlineSeconds"),
    },
    "RayCluster": {
        *("authOptions", "suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations"),
        *("enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec", "rayVersion"),
        *("workerGroupSpecs", "upgradeStrategy"),
    },
    "authOptions": {"mode", "secretName", "enableK8sTokenAuth"},
    "autoscalerOptions": {
        *("resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds"),
        *("upscalingMode", "version", "env", "envFrom", "volumeMounts"),
    },
    "headGroupSpec": {
        *("template", "headService", "enableIngress", "resources", "labels", "rayStartParams"),
        "serviceType",
    },
    "workerGroupSpecs": {
        *("suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds"),
        *("resources", "labels", "rayStartParams", "template", "scaleStrategy", "numOfHosts"),
    },
}


@pytest.mark.parametrize("name", ["kuberay-raycluster", "kuberay-rayjob"])
def test_kubernetes_takes_it(name: str) -> None:
    """The API server drops fields that it does not know, in silence."""
    import kubernetes_validate

    manifest = content(name)
    assert (manifest["apiVersion"], set(manifest)) == (
        "ray.io/v1",
        {"apiVersion", "kind", "metadata", "spec"},
    )
    spec = manifest["spec"]
    assert set(spec) <= FIELDS[manifest["kind"]]
    if manifest["kind"] == "RayJob":
        spec = spec["rayClusterSpec"]
        assert set(spec) <= FIELDS["RayCluster"]
        assert spec == content("kuberay-raycluster")["spec"]  # one text in two files
    for part in ("authOptions", "autoscalerOptions", "headGroupSpec"):
        assert set(spec[part]) <= FIELDS[part]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert (
            set(group)
            <= FIELDS["headGroupSpec" if "groupName" not in group else "workerGroupSpecs"]
        )
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.30", strict=True)
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        (selected,) = pod["nodeSelector"]
        assert selected in {toleration["key"] for toleration in pod["tolerations"]}
        hooks = pod["containers"][0]["lifecycle"]
        assert "raudio cluster watch-spot" in hooks["postStart"]["exec"]["command"][-1]
        assert "raudio cluster drain --deadline 25s" in hooks["preStop"]["exec"]["command"][-1]


@pytest.mark.parametrize("begun", [False, True])
def test_a_kubernetes_job_goes_on_with_its_run(tmp_path: Path, begun: bool) -> None:
    fake = tmp_path / "raudio"
    status = 0 if begun else 2
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = status ] && exit {status}\nprintf "<%s>" "$@" > {tmp_path}/args\n'
    )
    fake.chmod(0o755)
    entry = content("kuberay-rayjob")["spec"]["entrypoint"]
    subprocess.run(entry, shell=True, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert (tmp_path / "args").read_text() == (
        "<resume><s3://bucket/runs/a>"
        if begun
        else "<search><dataset.path=s3://bucket/fsdd><optimizer.lr=choice(0.1, 0.01)>"
        "<run.dir=s3://bucket/runs/a>"
    )


def test_shellcheck_takes_the_file_for_slurm() -> None:
    command = shutil.which("shellcheck") or pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [command, "--shell=bash", "-"],
        input=render("slurm", NEEDED["slurm"]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


# --- the command -------------------------------------------------------------------------------

WRONG = [
    (["aws-sopt"], "unknown cluster file 'aws-sopt' (closest: 'aws-spot')"),
    (["aws-spot"], "aws-spot needs ami=... (machine image with NVIDIA's driver and Docker"),
    (["local", "nmae=x"], "local: unknown key 'nmae' (closest: 'name')"),
    (["local", "port"], "'port' must be KEY=VALUE"),
    (["local", "prt"], "'prt' must be KEY=VALUE (closest: 'port')"),
    (["local", "port=1", "port=2"], "port is given twice"),
    (["local", "port=-1"], "port='-1' must be a whole number of at least 0"),
    (["slurm", *NEEDED["slurm"], "nodes=0"], "nodes='0' must be a whole number of at least 1"),
    (["local", 'head=1"; rm'], "must be of letters, digits and"),
    (["local", "user=$(id)"], "must be of letters, digits and"),
    (["local", "name=My_Cluster"], "must be of small letters, digits and dashes"),
    (["local", "workers=a b"], "must be of words with commas between them"),
    (["slurm", "run=/x", "command=search 'a"], "is not a command: No closing quotation"),
    (["slurm", "run=/x", "command=search\nrm"], "must be one line"),
    (["kuberay-raycluster", "image=x", "gpu_memory=lots"], "kuberay-raycluster: "),
]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sarch dataset.path=/x", "No such command 'sarch'"),
        ("search --nope", "No such option: --nope"),
    ],
)
def test_a_command_that_there_is_not_is_not_filled_in(given: str, message: str) -> None:
    for name in ("slurm", "kuberay-rayjob"):
        needed = [each for each in NEEDED[name] if not each.startswith("command=")]
        done = CliRunner().invoke(app, ["cluster", "render", name, *needed, f"command={given}"])
        assert (done.exit_code, done.stdout) == (2, "")
        assert message in done.stderr


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_usage_is_one_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out.yaml"
    done = CliRunner().invoke(app, ["cluster", "render", *arguments, "--out", str(out)])
    assert isinstance(done.exception, ConfigError), done.output
    assert message in str(done.exception)
    assert "\n" not in str(done.exception).replace("\\n", "")
    assert not out.exists()


def test_what_ray_has_against_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(old: str, new: str) -> str:
        (tmp_path / "local.yaml").write_text(local.replace(old, new))
        with pytest.raises(ConfigError) as error:
            render("local", [])
        return str(error.value)

    local = names()["local"].read_text()
    monkeypatch.setattr(files, "folder", lambda name: tmp_path)
    assert wrong("head_start_ray_commands", "head_commands") == (
        "local: $: Additional properties are not allowed ('head_commands' was unexpected)"
    )
    assert "is not of type 'number'" in wrong("idle_timeout_minutes: 10", "idle_timeout_minutes: x")


def test_the_command_lists_prints_and_writes(tmp_path: Path) -> None:
    run = CliRunner()
    listed = run.invoke(app, ["cluster", "render"]).output
    for name, path in names().items():
        template = read(path)
        assert f"{name}: {template.about}" in listed
        assert all(f"  {key} " in listed for key in template.keys)
    printed = run.invoke(app, ["cluster", "render", "local", "workers=10.0.0.2,10.0.0.3"]).output
    assert yaml.safe_load(printed)["provider"]["worker_ips"] == ["10.0.0.2", "10.0.0.3"]
    out = tmp_path / "cluster.yaml"
    arguments = ["cluster", "render", "local", "workers=10.0.0.2,10.0.0.3", "--out", str(out)]
    assert run.invoke(app, arguments).exit_code == 0
    assert out.read_text() == printed
    again = run.invoke(app, arguments)
    assert "is there already" in str(again.exception)
    nowhere = run.invoke(app, ["cluster", "render", "local", "--out", "/proc/cluster.yaml"])
    assert str(nowhere.exception).startswith("--out /proc/cluster.yaml cannot be written: ")
    assert shlex.split(render("slurm", ["run=/a~b", "command=search 'x=1 2'"]))


def test_the_files_come_with_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raudio.core import shipped

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert set(included) == {"clusters", "search_spaces"}
    for name, place in included.items():
        assert shipped.folder(name) == Path(__file__).parents[1] / name  # a clone
        assert place == f"raudio/{name}"
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "raudio" / "core" / "shipped.py"))
    (tmp_path / "raudio" / "clusters").mkdir(parents=True)
    assert shipped.folder("clusters") == tmp_path / "raudio" / "clusters"  # an installed wheel
