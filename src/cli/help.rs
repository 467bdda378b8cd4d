//! The texts of `--help`.

/// The help of a command; of the program for an empty name.
pub fn text(command: &str) -> &'static str {
    match command {
        "run" => RUN,
        "validate" => VALIDATE,
        "version" => {
            "Usage: cronium-agent version\n\nPrints version, commit, build time, target, and the versions of the TLS and SSH libraries.\n"
        }
        "exec" => EXEC,
        "known-hosts" => KNOWN_HOSTS,
        "gc" => GC,
        "doctor" => DOCTOR,
        "status" => STATUS,
        "reload" => RELOAD,
        "cancel" => CANCEL,
        _ => PROGRAM,
    }
}

const PROGRAM: &str = "\
cronium-agent claims jobs from the Cronium backend, runs each script in a hardened container,
streams every line live and reports exactly one result.

Usage: cronium-agent [COMMAND] [FLAGS]

Commands:
  run          claim and run jobs until told to stop (the default)
  validate     check the configuration and print what is in effect
  doctor       is this host fit? looks, and proves the locks of a job with containers of its own
  status       what the running agent does: jobs, pool, waiting reports
  reload       have the running agent read its configuration again
  cancel       end a running job
  exec         run one script in a container or on a server, without a backend
  known-hosts  add the key of a server to the known ones
  gc           remove containers of this agent's that were left behind
  version      print what this program was built from

Flags:
  -c, --config FILE      configuration; without it the first of ./cronium-orchestrator.yaml,
                         /etc/cronium/cronium-orchestrator.yaml, ~/.cronium/cronium-orchestrator.yaml
      --log-level LEVEL  error, warn, info, debug or trace
      --set KEY=VALUE    one configuration key, such as jobs.maxConcurrent=2 (may be repeated)
  -h, --help             this text; `cronium-agent COMMAND --help` for a command
  -V, --version          same as the command version

Every key is also an environment variable: jobs.maxConcurrent is CRONIUM_JOBS_MAX_CONCURRENT.

Exit codes:
    0  all went well
    1  failed; the message says why
    2  bad usage, or a configuration with problems
    3  exec, gc: the container engine cannot be reached
    4  stopped, but jobs were still running when the drain ended
    5  stopped at once by a third signal
  124, 125, 137  see `cronium-agent exec --help`
";

const RUN: &str = "\
Usage: cronium-agent [run] [--config FILE] [--log-level LEVEL] [--set KEY=VALUE]

Claims jobs and runs them until SIGTERM or SIGINT. The first signal drains: no more claims, running jobs
end by themselves within jobs.drainTimeout. The second ends that wait: jobs that still run go on without the
agent, and the next start finds them (jobs.onShutdown: leave), or are cancelled (cancel). The third ends at once.

SIGHUP, or `cronium-agent reload`, reads the configuration again; the log says what took effect and what needs a
restart. One that is not valid changes nothing.

An engine or a backend that does not answer is waited for; /ready says so meanwhile.

Exit codes: 0 stopped cleanly, 1 failed, 2 bad configuration, 4 not drained, 5 forced.
";

const VALIDATE: &str = "\
Usage: cronium-agent validate [--config FILE] [--set KEY=VALUE] [--explain]

Prints every problem of the configuration at once, each with its key and line, what was found and what is
allowed. Without problems: the configuration in effect as YAML, secrets as ***.

  --explain   after each value, where it came from: flag, environment, file and line, or default

Exit codes: 0 valid, 2 problems.
";

const EXEC: &str = "\
Usage: cronium-agent exec [FLAGS] FILE
       cronium-agent exec [FLAGS] -        (the script comes on standard input)

Runs one script in a container, or on a server, as a job of the backend would run. Its lines go to stdout and stderr as they
come; the verdict is the last line on stderr. No backend and no configuration file is needed.

  --lang LANG        bash, python or node; else by the file's ending or its #! line (.mjs: a module of Node.js)
  -e, --env K=V      a variable of the script; -e K passes this shell's value (not shown in `ps`)
  --timeout TIME     such as 30s or 5m (default: jobs.defaultTimeout)
  --memory SIZE      such as 256MB (default: container.resources.defaults.memory)
  --cpu CORES        such as 0.5 (default: container.resources.defaults.cpu)
  --server USER@HOST[:PORT]   run it there over SSH, not in a container; with
  --identity FILE    the private key to log in with; its passphrase is read from CRONIUM_EXEC_PASSPHRASE
  --network MODE     isolated, none, bridge or a network's name (default: container.network.mode)

What the configuration refuses is refused here: no script shares the host's network, or that of another container.
SIGINT, SIGTERM and SIGHUP end script and container.

Exit codes: the script's own; 124 it ran longer than --timeout, 137 it was killed at its memory limit,
125 it could not be run; 1 it ended with 0, but some of its output could not be written; 2 bad usage,
3 the container engine cannot be reached.
";

const KNOWN_HOSTS: &str = "\
Usage: cronium-agent known-hosts add HOST[:PORT] [--yes]

Fetches the key that the server shows, prints its fingerprint, and adds it to ssh.security.knownHostsFile after a yes.
Compare the fingerprint with what the server's administrator says: this command cannot know who answers.

  -y, --yes   without the question, for scripts that have compared it already

Exit codes: 0 added or known already, 1 not added, 2 bad usage.
";

const GC: &str = "\
Usage: cronium-agent gc [--dry-run] [--grace TIME]

Prints every container of this agent's with its job, state and age, and removes those that belong to no job and are
older than the grace; so also what an `exec` has left that was killed on this host. Never another agent's, never one
without the agent's labels. A running agent does this by itself
once a minute; beside one this only prints. Without one, the container of a job that the next start goes on with is kept.

  --dry-run      prints what would be removed, and removes nothing
  --grace TIME   such as 0s or 10m (default: 2m)

Exit codes: 0 done, 1 something could not be removed or seen, 2 bad usage, 3 the container engine cannot be reached.
";

const DOCTOR: &str = "\
Usage: cronium-agent doctor [--config FILE] [--set KEY=VALUE] [--json] [--fix-hints]

Looks at everything that the agent needs: configuration, state.dir, the backend and its clock, DNS, TLS, the token, the
container engine, its limits and images. Then it proves the locks: it runs containers made as a job's is, which try to
write the root, gain a privilege, use more processes, memory, cores or disk than allowed, reach each other, the cloud's
metadata address and the engine's socket. Each proof has a control: the same within what is allowed must work.

One line a check: ok, warn or fail, its name, what was measured. What could not be looked at or proven is fail, never
ok. What the configuration itself opens (such as container.security.readOnlyRootfs: false) is warn.

The state of no job is touched, nothing is claimed and nothing pulled. The containers carry the agent id \"doctor\" and
are removed; what a killed doctor left is removed by the next one. The network of the jobs is made if it is missing.
Run it as the agent's user (sudo -u cronium), since root can read and write what that user cannot.

  --json        {\"verdict\",\"checks\":[{\"name\",\"result\",\"measured\",\"hint\"}],\"seconds\"}
  --fix-hints   what to do, below each warn too; below each fail it is always shown

Exit codes: 0 nothing failed (warn or ok), 1 a check failed, 2 bad usage, or a configuration with problems.
";

const STATUS: &str = "\
Usage: cronium-agent status [--config FILE] [--set state.dir=DIR] [--json]

Asks the agent that runs on this host, over state.dir/control.sock: whether it claims jobs and why not, the jobs in
hand with phase and age, busy workers, reports that wait for the backend or were set aside, servers that are left
alone, the live log, what came of the last reload. Only root and the agent's user may ask.

  --json   the agent's own answer, one line of JSON

Exit codes: 0 answered, 1 no agent answers, 2 bad usage or configuration.
";

const RELOAD: &str = "\
Usage: cronium-agent reload [--config FILE] [--set state.dir=DIR]

Has the agent that runs on this host read its configuration again, from the same places as at its start, as SIGHUP
does; waits for that, and prints what took effect and what needs a restart. One that is not valid changes nothing:
then its problems are printed. --config and --set only say where this agent is; it is found without them where
state.dir is the default or systemd's. Only root and the agent's user may ask.

Exit codes: 0 it was read (also where nothing had changed), 1 it was refused or no agent answers, 2 bad usage.
";

const CANCEL: &str = "\
Usage: cronium-agent cancel [--config FILE] [--set state.dir=DIR] JOB

Tells the agent that runs on this host to end the job: TERM, then KILL after jobs.stopGrace. The job is reported as
cancelled by the operator. Returns at once; `cronium-agent status` shows when the job has gone.

Exit codes: 0 the job was told to end, 1 no agent answers or the job does not run there, 2 bad usage or configuration.
";
