//! The commands and their flags: the one table behind the parser, the help texts, the manual and the completions.
//!
//! Texts are paragraphs without line breaks; `help` wraps them.

/// A command of the program.
#[derive(Debug)]
pub struct CommandRow {
    pub name: &'static str,
    /// What stands behind the flags, word by word. Those in lower case are to be typed as they are, one of several at `|`.
    pub operands: &'static [&'static str],
    /// For the list of commands.
    pub summary: &'static str,
    pub about: &'static [&'static str],
    /// Exit codes and what they mean.
    pub exits: &'static [(&'static str, &'static str)],
}

/// A flag.
#[derive(Debug)]
pub struct Flag {
    pub short: Option<char>,
    pub long: &'static str,
    /// The name of its value, or the values at `|`; `None` when it takes none.
    pub value: Option<&'static str>,
    /// The commands that take it; all when empty.
    pub of: &'static [&'static str],
    pub help: &'static str,
}

impl Flag {
    /// Whether `command` takes it. `""`, before a command, takes the flags of all commands.
    pub fn is_of(&self, command: &str) -> bool {
        self.of.is_empty() || self.of.contains(&command)
    }
}

/// What the program is, above the list of its commands.
pub const ABOUT: &str = "cronium-agent claims jobs from the Cronium backend, runs each script in a hardened container, \
    streams every line live and reports exactly one result.";

/// Below the flags of the program.
pub const ENVIRONMENT: &str =
    "Every key is also an environment variable: jobs.maxConcurrent is CRONIUM_JOBS_MAX_CONCURRENT.";

/// Rows of name, operands and summary, the paragraphs of the help, and the exit codes.
macro_rules! commands {
    ($($name:literal [$($operand:literal)*] $summary:literal,
        $($about:literal)*; $($code:literal $exit:literal),*;)*) => {
        &[$(CommandRow {
            name: $name,
            operands: &[$($operand),*],
            summary: $summary,
            about: &[$($about),*],
            exits: &[$(($code, $exit)),*],
        }),*]
    };
}

/// Exit codes of the program as a whole.
pub const EXITS: &[(&str, &str)] = &[
    ("0", "all went well"),
    ("1", "failed; the message says why"),
    ("2", "bad usage, or a configuration with problems"),
    ("3", "exec, gc: the container engine cannot be reached"),
    ("4", "stopped, but jobs were still running when the drain ended"),
    ("5", "stopped at once by a third signal"),
    ("124, 125, 137", "see `cronium-agent exec --help`"),
];

/// In the order of the help. The first is the default.
pub static COMMANDS: &[CommandRow] = commands! {
    "run" [] "claim and run jobs until told to stop (the default)",
        "Claims jobs and runs them until SIGTERM or SIGINT. The first signal drains: no more claims, and running jobs have \
         jobs.drainTimeout to end. The second ends that wait: jobs that still run go on without the agent, and the next start \
         finds them (jobs.onShutdown: leave), or are cancelled (cancel). The third ends the agent at once."
        "SIGHUP, or `cronium-agent reload`, reads the configuration again; the log says what took effect and what needs a \
         restart. One that is not valid changes nothing."
        "The agent waits for an engine or a backend that does not answer; /ready says so meanwhile.";
        "0" "stopped cleanly", "1" "failed", "2" "bad usage or configuration", "4" "not drained", "5" "forced";
    "validate" [] "check the configuration and print what is in effect",
        "Prints every problem of the configuration at once, each with its key and line, what was found and what is allowed. \
         Without problems: the configuration in effect as YAML, secrets as ***.";
        "0" "valid", "2" "problems";
    "doctor" [] "check this host, and prove the locks of a job with test containers",
        "Looks at everything that the agent needs: configuration, state.dir, the backend and its clock, DNS, TLS, the token, \
         the container engine, its limits and images. Then it proves the locks: it runs containers made as a job's is, which \
         try to write the root, gain a privilege, make system calls that the filter refuses, use more processes, memory, cores \
         or disk than allowed, keep from ending, reach each other, this host, the cloud's metadata address, a name server and \
         the engine's socket. Each proof has a control: the same within what is allowed must \
         work."
        "One line a check: ok, warn or fail, its name, what was measured. A check that could not be made is fail, never ok. \
         What the configuration itself opens (such as container.security.readOnlyRootfs: false) is warn, and so is a version \
         of Docker, containerd, runc, crun, Podman or the kernel with a known hole; with --strict both are fail. --json prints \
         {\"verdict\",\"checks\":[{\"name\",\"result\",\"measured\",\"hint\"}],\"seconds\"}."
        "It changes the state of no job, claims nothing and pulls nothing. The containers carry the agent id \"doctor\" and are \
         removed; what a killed doctor left is removed by the next one. It makes the network of the jobs if that is missing. \
         Run it as the agent's user (sudo -u cronium), since root can read and write what that user cannot.";
        "0" "nothing failed (warn or ok)", "1" "a check failed", "2" "bad usage, or a configuration with problems";
    "status" [] "what the running agent does: jobs, pool, waiting reports",
        "Asks the agent that runs on this host, over state.dir/control.sock: whether it claims jobs and why not, its jobs with \
         phase and age, busy workers, reports that wait for the backend or were given up, servers behind an open circuit \
         breaker, the live log, the result of the last reload. Only root and the agent's user may ask.";
        "0" "answered", "1" "no agent answers", "2" "bad usage or configuration";
    "reload" [] "have the running agent read its configuration again",
        "Has the agent that runs on this host read its configuration again, from the same places as at its start, as SIGHUP \
         does; waits for that, and prints what took effect and what needs a restart. One that is not valid changes nothing: \
         then its problems are printed. --config and --set only say where this agent is; it is found without them where \
         state.dir is the default or systemd's. Only root and the agent's user may ask.";
        "0" "it was read (also where nothing had changed)", "1" "it was refused, or no agent answers", "2" "bad usage";
    "cancel" ["JOB"] "end a running job",
        "Has the agent that runs on this host end the job: TERM, then KILL after jobs.stopGrace. The job is reported as \
         cancelled by the operator. Returns at once; `cronium-agent status` shows when the job has ended.";
        "0" "the job is being ended", "1" "no agent answers, or the job does not run there", "2" "bad usage or configuration";
    "exec" ["FILE"] "run one script in a container or on a server, without a backend",
        "Runs one script in a container, or on a server, as a job of the backend would run. FILE may be -, for a script on \
         standard input. Its lines go to stdout and stderr as they come; the verdict is the last line on stderr. No backend \
         and no configuration file is needed."
        "What the configuration refuses is refused here: no script shares the host's network, or that of another container. \
         SIGINT, SIGTERM and SIGHUP end script and container.";
        "" "the script's own", "124" "it ran longer than --timeout", "137" "it was killed at its memory limit",
        "125" "it could not be run", "1" "it ended with 0, but some of its output could not be written",
        "2" "bad usage or configuration", "3" "the container engine cannot be reached";
    "known-hosts" ["add" "HOST[:PORT]"] "add the key of a server to the known ones",
        "Fetches the key that the server shows, prints its fingerprint, and adds it to ssh.security.knownHostsFile after a \
         yes. Without PORT it is that of ssh.hosts, or 22. Compare the fingerprint with what the server's administrator says: this command cannot know who answers.";
        "0" "added or known already", "1" "not added", "2" "bad usage or configuration";
    "gc" [] "remove containers of this agent's that were left behind",
        "Prints every container of this agent's with its job, state and age, and removes those that belong to no job and are \
         older than the grace; also what an `exec` that was killed on this host has left. Never another agent's, never one \
         without the agent's labels. A running agent does this itself once a minute; beside one this only prints. Without \
         one, the container of a job that the next start goes on with is kept."
        "With --images: the images that this agent pulled, in place of containers. Removes those that no container has, that \
         container.images does not name, that carry no other name, and that no job used within container.images.prune.keep. \
         Beside a running agent this only prints.";
        "0" "done", "1" "something could not be removed or seen", "2" "bad usage or configuration",
        "3" "the container engine cannot be reached";
    "sign" ["keygen|job|verify|scripts" "FILE"] "make keys, sign jobs, check signatures",
        "For security.signatures and security.allowedScripts; needs no configuration. See docs/signing.md."
        "`sign keygen NAME --key FILE` makes a private key and prints the line for security.signatures.keys. \
         `sign job FILE --key FILE --name NAME` prints the job of FILE (the JSON that the backend hands out, - for standard \
         input) with its signature. `sign verify FILE --keys FILE` says which key signed it. `sign scripts FILE-OR-FOLDER` \
         prints lines for security.allowedScripts.";
        "0" "done, or signed", "1" "failed, or not signed; the message says why", "2" "bad usage";
    "identity" [] "print the public key of this agent's receipts",
        "Prints the line of the key that signs receipts (security.receipts), for a file of trusted keys: its name, which has \
         the agent's id, and the public half. The agent makes the key at its first start with security.receipts. Run it as \
         the agent's user or root.";
        "0" "printed", "1" "there is no key yet, or it cannot be read", "2" "bad usage or configuration";
    "verify-receipt" ["FILE"] "check a receipt without agent and backend",
        "FILE is a receipt, or the JSON of the report or of the execution's record that carries one; - is standard input. \
         Prints a line for each check, ok, BAD or not checked, and then all that the receipt says. An output in FILE is \
         checked too. Without --keys the key of this host's own agent counts. See docs/receipts.md.";
        "0" "nothing that was checked is bad", "1" "something is bad, or no receipt could be read", "2" "bad usage";
    "version" [] "print what this program was built from",
        "Prints version, commit, build time, target, and the versions of the TLS and SSH libraries.";;
};

/// A row of [`FLAGS`].
macro_rules! flags {
    ($([$($short:literal)?] $long:literal $(= $value:literal)?, $of:tt, $help:literal;)*) => {
        &[$(Flag {
            short: flags!(@ $($short)?),
            long: $long,
            value: flags!(@ $($value)?),
            of: &$of,
            help: $help,
        }),*]
    };
    (@) => { None };
    (@ $some:literal) => { Some($some) };
}

/// Short, long and value, the commands, the meaning.
pub static FLAGS: &[Flag] = flags! {
    [] "lang" = "bash|python|node", ["exec"],
        "the script's language; else by the file's ending or its #! line (.mjs: a module of Node.js)";
    ['e'] "env" = "K=V", ["exec"],
        "a variable of the script; -e K passes this shell's value (not shown in `ps`)";
    [] "timeout" = "TIME", ["exec"],
        "such as 30s or 5m (default: jobs.defaultTimeout)";
    [] "memory" = "SIZE", ["exec"],
        "such as 256MB (default: container.resources.defaults.memory)";
    [] "cpu" = "CORES", ["exec"],
        "such as 0.5 (default: container.resources.defaults.cpu)";
    [] "network" = "MODE", ["exec"],
        "isolated, none, bridge or a network's name (default: container.network.mode)";
    [] "image" = "NAME", ["exec"],
        "any image with /bin/sh and the language, such as python:3-slim; pulled if missing (default: container.images)";
    [] "server" = "USER@HOST[:PORT]", ["exec"],
        "run it there over SSH, not in a container; needs --identity; ssh.hosts may give USER and PORT";
    [] "identity" = "FILE", ["exec"],
        "the private key to log in with; its passphrase is read from CRONIUM_EXEC_PASSPHRASE";
    [] "certificate" = "FILE", ["exec"],
        "the key's certificate, as ssh-keygen -s writes it (default: FILE-cert.pub beside the key)";
    [] "jump" = "NAME", ["exec"],
        "reach --server through this jump host of ssh.jumps, or USER@HOST[:PORT] with the same key";
    [] "input" = "JSON", ["exec"],
        "what the script's helper `input` gives (default: {})";
    [] "variables" = "FILE", ["exec"],
        "a JSON object with the variables of the script's helpers; what the script sets is written to it";
    [] "migrate" = "FILE", ["validate"],
        "print the smallest file that means the same as FILE of the older orchestrator, and what changes";
    [] "explain", ["validate"],
        "after each value, where it came from: flag, environment, file and line, or default";
    [] "json", ["status", "doctor", "exec"],
        "one line of JSON, for programs; of exec: verdict, output and condition, and the script's lines go to stderr";
    [] "fix-hints", ["doctor"],
        "what to do, below each warn too; below each fail it is always shown";
    [] "strict", ["doctor"],
        "an old version with a known hole, and a wall that the configuration opens, are fail, not warn";
    ['y'] "yes", ["known-hosts"],
        "without the question, for scripts that have compared the fingerprint already";
    [] "dry-run", ["gc"],
        "print what would be removed, and remove nothing";
    [] "images", ["gc"],
        "images that this agent pulled, in place of containers";
    [] "grace" = "TIME", ["gc"],
        "age below which containers stay, such as 0s or 10m (default: 2m); of images, the time since their last use \
         (default: container.images.prune.keep)";
    [] "key" = "FILE", ["sign"],
        "the private key; keygen makes the file";
    [] "name" = "NAME", ["sign"],
        "the key's name in the file of keys";
    [] "keys" = "FILE", ["sign", "verify-receipt"],
        "the file of trusted keys, to verify with";
    [] "job" = "FILE", ["verify-receipt"],
        "the job as the backend hands it out, to compare";
    [] "stdout" = "FILE", ["verify-receipt"],
        "what the backend has as the script's stdout, to compare";
    [] "stderr" = "FILE", ["verify-receipt"],
        "the same of stderr";
    [] "expires" = "TIME", ["sign"],
        "how long the signature counts, such as 24h (default: until its key ends)";
    ['c'] "config" = "FILE", [],
        "configuration; without it the first of ./cronium-orchestrator.yaml, \
         /etc/cronium/cronium-orchestrator.yaml, ~/.cronium/cronium-orchestrator.yaml";
    [] "log-level" = "LEVEL", [],
        "error, warn, info, debug or trace";
    [] "set" = "KEY=VALUE", [],
        "one configuration key, such as jobs.maxConcurrent=2 (may be repeated)";
    ['h'] "help", [],
        "this text; `cronium-agent COMMAND --help` for a command";
    ['V'] "version", [],
        "same as the command version";
};
