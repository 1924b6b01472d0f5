"""A bundle behind a real server, under the contract's load, and what the contract says of it.

Border: starts a server on loopback, offers load from another process, judges, writes the certificate.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from millis.binomial import requests_to_decide
from millis.bundles import Bundle, Certificate, ServingShape, open_bundle
from millis.bundles.saving import certify
from millis.contract import (
    Clause,
    Contract,
    Verdict,
    judge,
    judge_latency,
    judge_memory,
    judge_quality,
)
from millis.cores import n_cores
from millis.errors import AllRefused, ContractBroken, InvalidValue
from millis.measuring.bandwidth import Ceiling, find_ceiling
from millis.measuring.bench import offer_load
from millis.measuring.crowd import Crowd
from millis.measuring.fingerprint import fingerprint
from millis.measuring.results import LoadResult
from millis.searching.bodies import ANSWER_TOKENS, PROMPT_TOKENS, bodies_of_lengths, bodies_of_prompts
from millis.searching.reporting import report_proof
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.serving.versions import compare_machine
from millis.tasks.instructing import SPEAKING
from millis.telemetry.progress import say
from millis.units import write_ms

PROOF_MS = 20_000.0
_FEWEST = 1_000
_MOST_READING = 8
"""Threads that measure memory; more add nothing to it."""

_WEIGHTS = (".bin", ".gguf")  # of OpenVINO, and of llama.cpp


class Served(NamedTuple):
    """A load that was offered to a server of ours; the ceiling is of models that speak."""

    load: LoadResult
    memory_mb: float
    shape: ServingShape
    crowd: Crowd
    ceiling: Ceiling | None = None


class Proof(NamedTuple):
    """A bundle with its new certificate, and the verdict in it."""

    bundle: Bundle
    verdict: Verdict
    load: LoadResult
    ceiling: Ceiling | None = None

    def lines(self) -> tuple[str, ...]:
        """Write what was measured for a terminal."""
        tokens = self.load.tokens
        if self.ceiling is None or tokens is None or tokens.each is None:
            return self.load.lines()
        return (*self.load.lines(), self.ceiling.tell(tokens.each.p50_ms))


def measure_served(
    bundle: Bundle,
    *,
    contract: Contract,
    bodies: Sequence[bytes],
    n_requests: int,
    name: str = "prove",
    deadline_ms: float | None = None,
) -> Served:
    """Serve a bundle on a free port of loopback and offer it the contract's load.

    Args:
        deadline_ms: what requests name in place of the contract's bound, by which the server refuses.
    Raises:
        ContractBroken: the server refused every request that it answered, so nothing was measured.
    """
    shape = bundle.manifest.serving
    settings = ServeSettings(
        bundles=(str(bundle.path),), port=0, workers=shape.workers, threads=shape.threads, fallback=False
    )  # of the rung that the quality clause speaks of
    with Supervisor(settings) as server:
        is_chat = bundle.manifest.task in SPEAKING
        with Crowd() as crowd:
            try:
                result = offer_load(
                    f"{server.url}/v1/{'completions' if is_chat else bundle.manifest.task}",
                    bodies=bodies,
                    rate_per_s=contract.rate_per_s,
                    n_requests=n_requests,
                    bound_ms=contract.bound_ms,
                    token_bound_ms=contract.per_token_ms,
                    headers=() if deadline_ms is None else (("X-Deadline-Ms", f"{deadline_ms:g}"),),
                    warmup=8 if is_chat else 200,
                    name=name,
                )
            except AllRefused as error:
                raise ContractBroken(
                    f"not one of {n_requests} requests at {contract.rate_per_s:g}/s was answered: the server refused"
                    f" those that it did not expect to answer within {write_ms(contract.bound_ms)}. Allow more, or"
                    " offer less."
                ) from error
        memory_mb = sum(_resident_mb(pid) for pid in server.pids)
    return Served(result, memory_mb, shape, crowd, _find_ceiling(bundle) if is_chat else None)


def _find_ceiling(bundle: Bundle) -> Ceiling | None:
    """Find the ceiling of the rung that serves; None where its weights stand in no file of their own."""
    folder = f"{bundle.rung().folder}/"
    files = bundle.manifest.files.items()
    n_bytes = sum(one.n_bytes for name, one in files if name.startswith(folder) and name.endswith(_WEIGHTS))
    return find_ceiling(n_bytes, threads=min(n_cores(), _MOST_READING)) if n_bytes else None


def judge_served(bundle: Bundle, *, contract: Contract, served: Served) -> Verdict:
    """Judge every clause of a contract: latency and memory as just measured, quality as the manifest records it."""
    load_result, tokens = served.load, served.load.tokens
    clauses: list[Clause] = [
        judge_latency(
            contract,
            name="first token" if tokens is not None else "",
            n_requests=load_result.n_requests,
            n_misses=load_result.n_misses or 0,
            seen_ms=(tokens.first_ms if tokens is not None else load_result.percentile_ms)(contract.percentile),
            void=load_result.void,
            n_sure_misses=load_result.n_sure_misses or 0,
        )
    ]
    if contract.per_token_ms is not None:
        if tokens is None or tokens.n_misses is None:
            raise InvalidValue(
                f"the contract bounds the time per token, and no answer of {bundle.name} came token by token: leave"
                ' per_token out, or send bodies with "stream": true.'
            )
        clauses.append(
            judge_latency(
                contract,
                name="each later token",
                bound_ms=contract.per_token_ms,
                n_requests=load_result.n_requests,
                n_misses=tokens.n_misses,
                seen_ms=tokens.each_ms(contract.percentile),
                void=load_result.void,
            )
        )
    clauses = [_add_crowd(clause, served.crowd) for clause in clauses]
    quality = bundle.rung().quality
    if quality:
        clauses += judge_quality(
            contract,
            quality=quality["value"],
            reference=quality["reference"],
            interval=(quality["low"], quality["high"]),
        )
    return judge([*clauses, *judge_memory(contract, memory_mb=served.memory_mb)])


def _add_crowd(clause: Clause, crowd: Crowd) -> Clause:
    """Say in a clause that is not kept who else had the cores; the verdict stays."""
    if clause.status == "kept" or not crowd.is_crowded:
        return clause
    return msgspec.structs.replace(clause, detail=f"{clause.detail}; {crowd.note()}")


def prove(
    path: str | Path,
    *,
    rate_per_s: float | None = None,
    seconds: float | None = None,
    n_requests: int | None = None,
    bodies: Sequence[bytes] | None = None,
) -> Proof:
    """Measure a bundle's contract again, here, through HTTP, and write the new certificate into it.

    Args:
        rate_per_s: another rate than the contract's; the certificate then states that rate.
        seconds, n_requests: how long; by default 20 s and at least enough requests to decide.
        bodies: JSON bodies to send; by default texts made up to the lengths of the bundle's data.

    Raises:
        InvalidBundle: a file of the bundle is missing, truncated or altered.
    """
    bundle = open_bundle(path)
    differs = compare_machine(bundle)
    if differs:
        say(
            f"the certificate that stands here is of another machine ({'; '.join(differs)}): what is measured now takes"
            " its place"
        )
    contract = Contract.from_record(bundle.manifest.contract | ({"rate_per_s": rate_per_s} if rate_per_s else {}))
    if bodies is None and bundle.manifest.task in SPEAKING:
        bodies = bodies_of_prompts(bundle)
        say(f"bodies: {PROMPT_TOKENS} tokens at random, answers of {ANSWER_TOKENS} (--bodies FILE for your own)")
    elif bodies is None:
        bodies = bodies_of_lengths(bundle)
        say("bodies: texts made up to the lengths of the bundle's data (--bodies FILE for your own)")
    n = plan_requests(contract, seconds=seconds, n_requests=n_requests)
    served = measure_served(bundle, contract=contract, bodies=bodies, n_requests=n)
    verdict = judge_served(bundle, contract=contract, served=served)
    certificate = make_certificate(bundle, contract=contract, served=served, verdict=verdict)
    pages = report_proof(bundle, certificates=[certificate], load=served.load)
    return Proof(certify(bundle, certificates=[certificate], reports=pages), verdict, served.load, served.ceiling)


def plan_proof(contract: Contract, *, for_ms: float = PROOF_MS) -> int:
    """Say how many requests to send: for so long, and enough to say kept with some misses."""
    enough = requests_to_decide(contract.percentile, n_misses=2)
    return max(round(for_ms / 1000 * contract.rate_per_s), enough, _FEWEST)


def plan_requests(contract: Contract, *, seconds: float | None, n_requests: int | None) -> int:
    """Say how many requests to send: as asked, or as `plan_proof` says."""
    if seconds is not None and n_requests is not None:
        raise InvalidValue("seconds and requests cannot both be given: choose one of them.")
    if n_requests is not None:
        return n_requests
    if seconds is not None:
        return max(round(seconds * contract.rate_per_s), 1)
    return plan_proof(contract)


def make_certificate(
    bundle: Bundle, *, contract: Contract, served: Served, verdict: Verdict, name: str | None = None
) -> Certificate:
    """Write down a measurement of the rung that a bundle serves, and the hashes of the files it speaks of.

    Args:
        name: what the bundle will be called, where it is a draft.
    """
    machine = fingerprint()
    return Certificate(
        contract=contract.record(),
        verdict=msgspec.to_builtins(verdict),
        measurement=msgspec.to_builtins(served.load, str_keys=True)
        | {"memory_mb": round(served.memory_mb, 1)}
        | served.crowd.record()
        | ({"ceiling": msgspec.to_builtins(served.ceiling)} if served.ceiling is not None else {}),
        machine=msgspec.to_builtins(machine),
        rung=bundle.manifest.rung,
        serving=served.shape,
        command=f"millis prove {name or bundle.path.name} --rate {contract.rate_per_s:g}"
        f" --requests {served.load.n_requests}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=machine.versions,
        subject=bundle.subject(),
    )


def read_served(certificate: Certificate) -> Served:
    """Read what was measured out of a certificate; who else had the cores stays in its verdict."""
    measured = certificate.measurement
    load = {name: measured[name] for name in LoadResult.__struct_fields__}
    return Served(
        msgspec.convert(load, type=LoadResult, str_keys=True), measured["memory_mb"], certificate.serving, Crowd()
    )


def _resident_mb(pid: int) -> float:
    """Read the resident memory of a process and of those that it started; 0 where the system does not tell."""
    place, held_mb = Path(f"/proc/{pid}"), 0.0
    try:
        for line in (place / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                held_mb = int(line.split()[1]) * 1024 / 1e6
        children = [one for task in place.glob("task/*/children") for one in task.read_text().split()]
    except OSError:
        return held_mb
    return held_mb + sum(_resident_mb(int(one)) for one in children)
