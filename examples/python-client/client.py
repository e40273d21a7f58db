#!/usr/bin/env python3
"""A client of a standing coordinator (`zeroth serve`): submits a run, watches it, fetches the tuned prompt.

    client.py --url HOST:PORT --to prompt.safetensors RUN.toml [--set KEY=VALUE]...

The stubs are generated from proto/zeroth/v1/client.proto when it starts. Before it submits, it asks the coordinator's
health, and by reflection whether it has the service at all. One JSON object a line; exit code 0 when the run is done.
"""

import argparse
import importlib
import json
import math
import pathlib
import sys
import tempfile

import grpc
import grpc_tools.protoc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "zeroth.v1.Runs"
PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
DEADLINE = 30  # seconds that any single answer may take


def generated(folder):
    """The modules that protoc makes of client.proto."""
    arguments = ["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if grpc_tools.protoc.main([*arguments, "zeroth/v1/client.proto"]) != 0:
        sys.exit("error: protoc cannot read client.proto")
    sys.path.insert(0, str(folder))
    names = ("zeroth.v1.client_pb2", "zeroth.v1.client_pb2_grpc")
    return tuple(importlib.import_module(name) for name in names)


def check(channel, messages):
    """Whether the coordinator serves, and whether the service it describes is the one the stubs were made of."""
    health = health_pb2_grpc.HealthStub(channel)
    answer = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE, wait_for_ready=True)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit(f"error: the coordinator is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
    database = ProtoReflectionDescriptorDatabase(channel)
    services = sorted(database.get_services())
    described = DescriptorPool(database).FindServiceByName(SERVICE)
    own = messages.DESCRIPTOR.services_by_name["Runs"]
    missing = [method.name for method in own.methods if method.name not in described.methods_by_name]
    if missing:
        sys.exit(f"error: the coordinator has no {', '.join(missing)}: it is older than client.proto")
    say(services=services, methods=sorted(described.methods_by_name))


def say(**fields):
    print(json.dumps(fields), flush=True)


def number(value):
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_file", type=pathlib.Path)
    parser.add_argument("--url", required=True, metavar="HOST:PORT")
    parser.add_argument("--to", required=True, type=pathlib.Path, metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--token-file", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, grpc.insecure_channel(arguments.url) as channel:
        messages, services = generated(folder)
        check(channel, messages)
        metadata = ()
        if arguments.token_file:
            metadata = (("authorization", f"Bearer {arguments.token_file.read_text().strip()}"),)
        runs = services.RunsStub(channel)
        submission = messages.SubmitRequest(
            run_file=arguments.run_file.read_text(encoding="utf-8"),
            name=arguments.run_file.name,
            set=arguments.set,
        )
        run = runs.Submit(submission, timeout=DEADLINE, metadata=metadata).run
        say(run=run)
        states = messages.RunStatus.State
        for status in runs.Watch(messages.WatchRequest(run=run), metadata=metadata):
            say(state=states.Name(status.state), calls=status.calls, loss=number(status.best_loss))
        if status.state != states.STATE_DONE:
            sys.exit(f"error: run {run} ended as {states.Name(status.state)}: {status.message}")
        pieces = runs.Fetch(messages.FetchRequest(run=run), metadata=metadata)
        arguments.to.write_bytes(b"".join(piece.data for piece in pieces))
        say(artefact=str(arguments.to))


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"error: {error.code().name}: {error.details()}")
