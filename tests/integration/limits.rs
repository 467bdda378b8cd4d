//! Every limit, by a script that tries to break it; and the message that its author gets.

use cronium_dev_backend::{Action, DevBackend, Fault, JobRow};
use serde_json::{Value, json};

use crate::harness::{
    Agent, alone, deployed, docker, eventually, finish, finished, is_running, job, on_podman, record, report, shared,
    with_socket,
};
use crate::harness::{stderr, stdout};

const MIB: u64 = 1 << 20;

/// Queues a job and waits until its container runs; the job's id and what `docker inspect` says.
pub fn running(backend: &DevBackend, agent: &Agent, job: Value) -> (String, Value) {
    let id = backend.enqueue(job).expect("queued");
    let mut container = String::new();
    eventually("the job's container runs", || {
        container = agent.container_of(&id).unwrap_or_default();
        !container.is_empty() && is_running(&container)
    });
    let found: Value = serde_json::from_str(&docker(&["inspect", &container])).expect("JSON");
    (id, found[0].clone())
}

/// What the execution's record says of the reason, in one word.
fn reason(backend: &DevBackend, row: &JobRow) -> String {
    record(backend, row)["executionMetadata"]["reason"].as_str().expect("reason").to_owned()
}

/// The verdict's sentence.
fn verdict(backend: &DevBackend, row: &JobRow) -> String {
    record(backend, row)["executionMetadata"]["verdict"].as_str().expect("verdict").to_owned()
}

/// A figure of the execution's record.
fn figure(backend: &DevBackend, row: &JobRow, name: &str) -> f64 {
    let record = record(backend, row);
    record["executionMetadata"][name].as_str().and_then(|text| text.parse().ok()).expect(name)
}

fn system_lines(backend: &DevBackend, row: &JobRow) -> Vec<String> {
    backend.lines(&row.id).into_iter().filter(|line| line.stream == "system").map(|line| line.text).collect()
}

fn with_resources(mut job: Value, resources: Value) -> Value {
    job["execution"]["resources"] = resources;
    job
}

#[test]
pub fn more_memory_than_the_limit_is_killed_with_evidence_and_tmpfs_counts() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("container.resources.defaults.memory", "64MB")]);
    let takers = [
        job("PYTHON", "print('begun')\nx = bytearray(200_000_000)\nprint('never')\n"),
        job("BASH", "echo begun; exec head -c 200000000 /dev/zero > /workspace/big"),
        job("BASH", "echo begun; exec head -c 200000000 /dev/zero > /dev/shm/big"),
    ];
    let ids: Vec<String> = takers.into_iter().map(|job| backend.enqueue(job).expect("queued")).collect();
    let rows: Vec<JobRow> = ids.iter().map(|id| finished(&backend, id)).collect();
    for row in &rows {
        // /dev/shm is no larger than the memory: there a full device may come first.
        if verdict(&backend, row).contains("full device") {
            assert_eq!(row.id, ids[2]);
            continue;
        }
        assert_eq!((report(row)["status"].as_str(), row.exit_code), (Some("failed"), Some(137)), "{row:?}");
        assert_eq!(reason(&backend, row), "memory");
        assert_eq!(stdout(row), "begun\n");
        for words in ["its memory limit of 64 MiB", "exit code 137, OOMKilled=", "count as memory"] {
            assert!(stderr(row).contains(words), "{}", stderr(row));
        }
        let facts = record(&backend, row)["executionMetadata"].clone();
        let kills: u64 = facts["oomKills"].as_str().and_then(|n| n.parse().ok()).unwrap_or(0);
        assert!(facts["oomKilled"] == "true" || kills > 0, "no evidence: {facts}");
    }

    // No swap on top of it, as the engine has it and as the kernel has it.
    let (id, found) = running(&backend, &agent, job("BASH", "sleep 1"));
    assert_eq!(found["HostConfig"]["Memory"], 64 * MIB);
    assert_eq!(found["HostConfig"]["MemorySwap"], 64 * MIB);
    assert_eq!(stdout(&finished(&backend, &id)), "");
    agent.stop();
}

#[test]
pub fn two_busy_processes_use_half_a_core() {
    let _machine = alone();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("container.resources.defaults.cpu", "0.5")]);
    // Together they would use two cores.
    let script = "(while :; do :; done) & (while :; do :; done) & sleep 2; kill %1 %2";
    let row = finish(&backend, job("BASH", script));
    let seconds = record(&backend, &row)["executionDuration"].as_f64().expect("ms") / 1000.0;
    let share = figure(&backend, &row, "cpuSeconds") / seconds;
    assert!((0.2..=0.65).contains(&share), "{share} of a core over {seconds} s");
    agent.stop();
}

#[test]
pub fn a_fork_bomb_meets_its_limit_and_harms_nothing() {
    let _machine = shared();
    let backend = deployed();
    let mut agent = Agent::start(&backend, &[("container.resources.defaults.pids", "30"), ("jobs.stopGrace", "1s")]);
    let bomb = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(60)\n";
    let row = finish(&backend, job("PYTHON", bomb));
    assert_eq!((row.exit_code, reason(&backend, &row).as_str()), (Some(1), "script"));
    assert!(verdict(&backend, &row).contains("limit of 30 processes"), "{}", verdict(&backend, &row));

    // Bash tries a refused fork again and again, so that this one ends at its time limit: the verdict says that as well.
    let mut classic = job("BASH", "b() { b | b & }; b; while :; do sleep 5; done");
    classic["execution"]["timeout"] = json!(3);
    let row = finish(&backend, classic);
    assert_eq!(report(&row)["status"], "timeout");
    assert!(verdict(&backend, &row).contains("it met its limit of 30 processes"), "{}", verdict(&backend, &row));

    assert!(agent.is_alive());
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo fine"))), "fine\n");
    agent.stop();
}

#[test]
pub fn workspace_and_tmp_fill_up_at_the_disk_limit_together() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("container.resources.defaults.disk", "8MB")]);
    for place in ["/workspace", "/tmp"] {
        let script = format!("dd if=/dev/zero of={place}/full bs=64k count=1000");
        let row = finish(&backend, job("BASH", &script));
        assert_eq!(row.exit_code, Some(1), "{place}: {row:?}");
        assert!(stderr(&row).contains("No space left on device"), "{place}: {}", stderr(&row));
        assert!(verdict(&backend, &row).contains("a full device: the disk limit is 8 MiB"), "{place}");
    }
    // All that a script can write anywhere is the limit; a few pages are the script itself and folders.
    let script = "import os\ntotal = 0\nfor place in ['/workspace', '/tmp']:\n    try:\n        with open(place + '/f', 'wb', 0) as f:\n            while True: total += f.write(b'x' * 4096)\n    except OSError as e: print(e.errno)\nprint(total)\n";
    let row = finish(&backend, job("PYTHON", script));
    let lines: Vec<u64> = stdout(&row).lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(lines[..2], [28, 28]);
    assert!((8 * MIB - 64 * 1024..=8 * MIB).contains(&lines[2]), "{lines:?}");
    agent.stop();
}

#[test]
fn a_million_empty_files_end_at_the_inode_limit() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let script = "import os\nos.chdir('/tmp')\nn = 0\ntry:\n    while n < 1_000_000:\n        os.mknod(str(n)); n += 1\nfinally:\n    print(n)\n";
    let row = finish(&backend, with_resources(job("PYTHON", script), json!({ "cpuLimit": 2 })));
    let made: u64 = stdout(&row).trim().parse().expect("a number");
    // One inode is the folder.
    assert_eq!(made, 199_999, "{}", stderr(&row));
    assert!(stderr(&row).contains("[Errno 28] No space left on device"), "{}", stderr(&row));
    agent.stop();
}

#[test]
pub fn shared_memory_is_full_before_the_memory_is() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("container.resources.defaults.memory", "256MB")]);
    let script = "total = 0\ntry:\n    with open('/dev/shm/f', 'wb', 0) as f:\n        while True: total += f.write(b'x' * 65536)\nexcept OSError as e: print(e.errno)\nprint(total)\n";
    let row = finish(&backend, job("PYTHON", script));
    assert_eq!(stdout(&row), format!("28\n{}\n", 64 * MIB), "{}", stderr(&row));
    agent.stop();
}

#[test]
fn the_engines_copy_of_a_jobs_output_is_bounded() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let script = "head -c 50000000 /dev/zero | tr '\\0' x | fold -w 50000; echo; echo over\n\
                  while [ ! -e /tmp/enough ]; do sleep 0.1; done";
    let (id, found) = running(&backend, &agent, job("BASH", script));
    let container = found["Id"].as_str().expect("an id");
    eventually("all is printed", || docker(&["logs", "--tail", "1", container]).trim() == "over");
    let kept = docker(&["logs", container]).len() as u64;
    // Two files of 16 MiB, of which the older was full; JSON around each line counts. Podman has one, and begins it anew.
    let least = if on_podman() { 1 } else { 16 * MIB };
    assert!((least..=32 * MIB).contains(&kept), "{kept}");
    docker(&["exec", container, "touch", "/tmp/enough"]);
    let row = finished(&backend, &id);
    assert_eq!(row.exit_code, Some(0));
    agent.stop();
}

#[test]
pub fn a_writable_root_is_watched_and_its_job_stopped() {
    let _machine = shared();
    let backend = deployed();
    let settings = [("container.security.readOnlyRootfs", "false"), ("container.resources.defaults.disk", "8MB")];
    let agent = Agent::start(&backend, &settings);
    let row = finish(&backend, job("BASH", "dd if=/dev/zero of=big bs=1M count=24 2>/dev/null; sleep 50; echo never"));
    assert_eq!(reason(&backend, &row), "disk");
    assert_eq!((report(&row)["status"].as_str(), row.exit_code, stdout(&row)), (Some("failed"), Some(143), ""));
    let words = "wrote more than its disk limit of 8 MiB to the root file system; ended by SIGTERM";
    assert!(stderr(&row).contains(words), "{}", stderr(&row));
    // Below the limit nothing happens, also over several looks.
    let row = finish(&backend, job("BASH", "dd if=/dev/zero of=small bs=1M count=4 2>/dev/null; sleep 2.5; echo kept"));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "kept\n"));
    agent.stop();
}

/// The script prints the seconds that a write and a read past the cache took.
fn disk_rates(settings: &[(&str, &str)], count: u32, block: &str, keys: [&str; 2], rate: u64) {
    let backend = deployed();
    let mut all = vec![("container.security.readOnlyRootfs", "false")];
    all.extend_from_slice(settings);
    let agent = Agent::start(&backend, &all);
    let script = format!(
        "t() {{ local s=$EPOCHREALTIME; \"$@\" 2>&1 | grep -v records >&2; echo $(( (${{EPOCHREALTIME/.}} - ${{s/.}}) / 1000 )); }}\n\
         t dd if=/dev/zero of=f bs={block} count={count} oflag=direct\n\
         t dd if=f of=/dev/null bs={block} iflag=direct\n"
    );
    let (id, found) = running(&backend, &agent, job("BASH", &script));
    let root = docker(&["info", "--format", "{{.DockerRootDir}}"]);
    let output = std::process::Command::new("df").args(["--output=source", &root]).output().expect("df");
    let source = String::from_utf8_lossy(&output.stdout).lines().last().expect("a source").to_owned();
    let source = std::fs::canonicalize(&source).expect("a device").to_string_lossy().into_owned();
    for key in keys {
        let row = &found["HostConfig"][key][0];
        assert_eq!(row["Rate"], rate, "{key}: {}", found["HostConfig"]);
        // The limit is on the disk, the file system may be on a partition of it.
        let device = row["Path"].as_str().expect("a path");
        assert!(source.starts_with(device), "{device} does not hold {source}");
    }
    let row = finished(&backend, &id);
    let millis: Vec<u64> = stdout(&row).lines().map(|line| line.parse().expect("a number")).collect();
    // Five seconds' worth. The kernel lets the first moments pass, and a busy disk takes longer.
    assert!(millis.len() == 2 && millis.iter().all(|ms| (3300..25_000).contains(ms)), "{millis:?} {}", stderr(&row));
    agent.stop();
}

#[test]
fn bytes_a_second_to_and_from_the_disk_are_limited() {
    let _machine = shared();
    let settings = [("container.resources.defaults.readBps", "1MB"), ("container.resources.defaults.writeBps", "1MB")];
    disk_rates(&settings, 20, "256k", ["BlkioDeviceReadBps", "BlkioDeviceWriteBps"], MIB);
}

#[test]
fn operations_a_second_on_the_disk_are_limited() {
    let _machine = shared();
    let settings = [("container.resources.defaults.readIops", "20"), ("container.resources.defaults.writeIops", "20")];
    disk_rates(&settings, 100, "4k", ["BlkioDeviceReadIOps", "BlkioDeviceWriteIOps"], 20);
}

#[test]
fn of_too_much_output_head_and_tail_are_kept_with_a_count() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[("jobs.maxOutput", "4KB")]);
    let row = finish(&backend, job("BASH", "seq 1 20000; seq 1 20000 >&2; echo the end"));
    assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("completed"), Some(0)));
    let whole: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    for (kept, whole) in [(stdout(&row), format!("{whole}the end\n")), (stderr(&row), whole)] {
        let (head, rest) = kept.split_once("[... ").expect("a marker");
        let (marker, tail) = rest.split_once(" left out ...]\n").expect("a marker");
        assert!(whole.starts_with(head) && head.len() > 1500, "{head}");
        assert!(whole.ends_with(tail) && tail.len() > 1500, "{tail}");
        let gone = &whole[head.len()..whole.len() - tail.len()];
        assert_eq!(marker, format!("{} bytes, {} lines", gone.len(), gone.lines().count()));
        assert!(head.len() + tail.len() <= 4096);
    }
    // The live log has it all.
    assert_eq!(figure(&backend, &row, "lines"), 40_001.0);
    agent.stop();
}

#[test]
fn time_is_limited_without_a_wish_and_beyond_it_and_setup_does_not_count() {
    let _machine = shared();
    let backend = with_socket();
    let times = [("jobs.defaultTimeout", "1s"), ("jobs.maxTimeout", "2s"), ("jobs.stopGrace", "5s")];
    let agent = Agent::start(&backend, &times);
    let mut without = job("BASH", "sleep 30");
    without["execution"].as_object_mut().expect("object").remove("timeout");
    let row = finish(&backend, without);
    assert!(stderr(&row).contains("limit of 1 s (jobs.defaultTimeout); ended by SIGTERM"), "{}", stderr(&row));

    let row = finish(&backend, job("BASH", "sleep 30"));
    assert!(stderr(&row).contains("limit of 2 s (jobs.maxTimeout); ended by SIGTERM"), "{}", stderr(&row));
    let told = system_lines(&backend, &row);
    assert!(told.contains(&"timeout: the job asks for 60 s, the limit is 2 s".to_owned()), "{told:?}");

    // The backend's word to start comes late: that is setup, and the job has its second for itself.
    let late = Action::Delay { millis: 2500 };
    backend.set_fault(Fault { path: Some("/acknowledge".into()), action: late, ..Fault::default() });
    let mut short = job("BASH", "sleep 0.2; echo in time");
    short["execution"]["timeout"] = json!(1);
    let row = finish(&backend, short);
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "in time\n"));
    let record = record(&backend, &row);
    assert!(record["setupDuration"].as_u64().expect("ms") >= 2500, "{record}");
    assert!(record["executionDuration"].as_u64().expect("ms") < 1000, "{record}");
    agent.stop();
}

#[test]
pub fn wishes_above_the_limits_are_cut_and_the_job_is_told() {
    let _machine = shared();
    let backend = with_socket();
    let set = |kind| {
        [("cpu", "0.25"), ("memory", "64MB"), ("disk", "16MB"), ("pids", "40")]
            .map(|(name, value)| (format!("container.resources.{kind}.{name}"), value))
    };
    let all: Vec<(String, &str)> = set("limits").into_iter().chain(set("defaults")).collect();
    let settings: Vec<(&str, &str)> = all.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let agent = Agent::start(&backend, &settings);
    let wish = json!({ "cpuLimit": 4, "memoryLimit": 1_u64 << 30, "diskLimit": 1_u64 << 31, "pidsLimit": 5000 });
    let (id, found) = running(&backend, &agent, with_resources(job("BASH", "sleep 1"), wish));
    let row = finished(&backend, &id);
    let host = &found["HostConfig"];
    assert_eq!(
        (&host["NanoCpus"], &host["Memory"], &host["PidsLimit"]),
        (&json!(250_000_000), &json!(64 * MIB), &json!(40))
    );
    let told = system_lines(&backend, &row);
    for words in [
        "cpu: the job asks for 4 cores, the limit is 0.25",
        "memory: the job asks for 1 GiB, the limit is 64 MiB",
        "disk: the job asks for 2 GiB, the limit is 16 MiB",
        "pids: the job asks for 5000, the limit is 40",
    ] {
        assert!(told.iter().any(|line| line == words), "{words}: {told:?}");
    }
    // A job that keeps within them hears nothing but its verdict.
    let modest = with_resources(job("BASH", "true"), json!({ "cpuLimit": 0.1, "pidsLimit": 20 }));
    assert_eq!(system_lines(&backend, &finish(&backend, modest)).len(), 1);
    agent.stop();
}
