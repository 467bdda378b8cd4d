//! Records on real file systems: whole, torn, full and read-only ones.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use super::super::*;
use super::*;
use crate::job::{Kind, Language};
use crate::jobs::resume::ResumePoint;
use crate::os::{files, scratch, threads};

#[path = "turn_tests.rs"]
mod turns;

/// A `state.dir` of a test's own.
pub(in crate::jobs) struct Scratch {
    pub(in crate::jobs) dir: PathBuf,
    mounted: bool,
    /// Dropped last.
    _folder: scratch::Scratch,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let folder = scratch::Scratch::new();
        Self { dir: folder.to_path_buf(), mounted: false, _folder: folder }
    }

    /// One on a separate file system. Needs root.
    pub(crate) fn tmpfs(options: &str) -> Self {
        let mut scratch = Self::new();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", scratch.dir.to_str().expect("UTF-8")]);
        scratch.mounted = true;
        scratch
    }

    pub(crate) fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), self.dir.to_str().expect("UTF-8")]);
    }

    pub(crate) fn open(&self) -> Opened {
        RecordStore::open(&self.dir).expect("open")
    }

    pub(crate) fn path_of(&self, entry: &Entry) -> PathBuf {
        self.dir.join("jobs").join(file::name(&entry.job))
    }

    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join(folder)).expect("list");
        let mut names: Vec<_> = entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.mounted {
            run("umount", &["-l", self.dir.to_str().expect("UTF-8")]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the program");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?} (these tests run as root): {words}");
}

pub(crate) fn id(text: &str) -> Id {
    Id::parse(text).expect("an id")
}

pub(crate) fn entry(job: &str, stage: Stage) -> Entry {
    let container = Container {
        name: format!("cronium-{job}"),
        image: "cronium/runner-bash:latest".into(),
        memory: 512 << 20,
        pids: 100,
        disk: 1 << 30,
        cpu: 0.5,
        warm: None,
    };
    Entry {
        job: id(job),
        execution: id(&format!("exec-{job}")),
        kind: Kind::Container,
        attempts: 1,
        language: Some(Language::Node),
        claimed_ms: 1_705_314_600_000,
        place: Place::Container(container),
        stage,
        has_updates: true,
        helpers: None,
        receipt: None,
        secrets: None,
    }
}

pub(crate) fn started() -> Stage {
    let resume = ResumePoint { stdout: 5_000_000_000, stderr: 7, lines: 9, sequence: 11, live: true, open: [0, 11] };
    Stage::Started(Started {
        id: Some("0123abc".into()),
        started_ms: 1_705_314_601_000,
        deadline_ms: 1_705_318_201_000,
        timeout_name: "jobs.defaultTimeout".into(),
        timeout_ms: 3_600_000,
        boot_id: "6d5b".into(),
        resume,
    })
}

pub(crate) fn ended(since_ms: u64, stdout: &str) -> Stage {
    let complete = serde_json::json!({"status": "completed", "exitCode": 0, "output": {"stdout": stdout}}).to_string();
    let update = Some(serde_json::json!({ "output": stdout }).to_string());
    let report =
        Report { status: "completed".into(), exit_code: 0, message: "fine".into(), update, owed: Vec::new(), complete };
    Stage::Ended(Ended { report, since_ms })
}

pub(crate) fn servers() -> Place {
    let server = |n: u16| Server {
        name: format!("web {n}"),
        server_id: n.to_string(),
        host: "2001:db8::1".into(),
        port: 22 + n,
        user: "deploy".into(),
        directory: "/tmp/.cronium-x".into(),
        execution: id(&format!("exec-{n}")),
        part: Part::OfJob,
        remains: false,
        login: "c2VhbGVk".into(),
    };
    let Stage::Started(started) = started() else { panic!("it is started") };
    let end = PartEnd {
        reason: "timeout".into(),
        exit_code: -1,
        message: "too \"long\"".into(),
        timeout_name: "jobs.maxTimeout".into(),
        timeout_ms: 7,
        cpu_seconds: 0.25,
        recorded: true,
        owed: Some(r#"{"output":"x"}"#.into()),
    };
    let parts = [Part::OfJob, Part::Waiting { record: true }, Part::Started(started), Part::Ended(end)];
    Place::Servers((1..).zip(parts).map(|(n, part)| Server { part, ..server(n) }).collect())
}

#[test]
fn every_stage_and_place_comes_back_as_it_was() {
    let scratch = Scratch::new();
    let text = "tab\t \"quoted\" \\u0000 \u{1} \u{2028} ünï 🦀\n".repeat(3);
    let all = [
        entry("a:1", Stage::Intent),
        Entry { language: None, place: Place::Nowhere, ..entry("b", started()) },
        Entry { kind: Kind::Ssh, place: servers(), ..entry("c", Stage::Intent) },
        entry("d", ended(2, &text)),
        entry("e", ended(1, "")),
    ];
    {
        let Opened { records, open, ended } = scratch.open();
        assert!(open.is_empty() && ended.is_empty());
        for entry in &all {
            records.put(&Entry { attempts: 7, ..entry.clone() }).expect("put");
            records.put(entry).expect("put again");
        }
        let long = Entry { job: id(&"x".repeat(100)), ..all[0].clone() };
        records.put(&long).expect("a long id");
        records.remove(&id(&"x".repeat(100)));
    }
    let Opened { records, open, ended } = scratch.open();
    assert_eq!(open, all[..3]);
    let waiting =
        |entry: &Entry, since_ms| Waiting { job: entry.job.clone(), attempts: 1, since_ms, bytes: entry.report_size() };
    assert_eq!(ended, [waiting(&all[4], 1), waiting(&all[3], 2)], "oldest first");
    assert_eq!(records.read(&id("d")).expect("read"), Some(all[3].clone()));
    assert_eq!(records.read(&id("none")).expect("read"), None);
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode(&scratch.dir.join("jobs")), mode(&scratch.path_of(&all[0]))), (0o700, 0o600));
    assert_eq!(records.trouble(), None);
}

#[test]
fn an_end_whose_folder_may_be_left_on_a_server_does_not_wait_with_the_reports() {
    let scratch = Scratch::new();
    let Place::Servers(mut pages) = servers() else { panic!("servers") };
    pages[3].remains = true;
    let left = Entry { kind: Kind::Ssh, place: Place::Servers(pages), ..entry("left", ended(1, "out")) };
    let clear = Entry { job: id("clear"), ..left.clone().without_remains() };
    {
        let records = scratch.open().records;
        records.put(&left).expect("put");
        records.put(&clear).expect("put");
    }
    let Opened { records, open, ended } = scratch.open();
    assert_eq!((open, ended.len(), &ended[0].job), (vec![left.clone()], 1, &clear.job));
    // As a page of an earlier version, which has no such field.
    let text = fs::read_to_string(scratch.path_of(&clear)).expect("text");
    let body = text.split_once('\n').expect("two lines").1.replace(",\"remains\":false", "");
    assert!(!body.contains("remains"), "{body}");
    assert_eq!(serde_json::from_str::<Entry>(&body).expect("an entry"), clear);
    drop(records);
}

#[test]
fn a_report_of_eight_megabytes_of_anything_fits() {
    let scratch = Scratch::new();
    let records = scratch.open().records;
    let worst = entry("big", ended(1, &"\u{1}".repeat(4 << 20)));
    records.put(&worst).expect("put");
    assert_eq!(records.read(&worst.job).expect("read"), Some(worst.clone()));
    // JSON within JSON is not escaped again.
    let size = usize::try_from(fs::metadata(scratch.path_of(&worst)).expect("file").len()).expect("fits");
    let report = worst.ended().expect("ended").report.size();
    assert!(size < report + 2000, "{size} for {report}");
    let no_json = Report { complete: "{".into(), ..worst.ended().expect("ended").report.clone() };
    let broken = Entry { stage: Stage::Ended(Ended { report: no_json, since_ms: 0 }), ..worst };
    assert!(matches!(records.put(&broken), Err(RecordError::Encode { .. })));
    assert_eq!(records.trouble(), None, "the disk is well");
}

#[test]
fn a_file_torn_at_any_byte_is_set_aside_and_stops_nothing() {
    let whole = [encoded(&entry("torn", started())), encoded(&entry("torn", ended(1, "x")))];
    for bytes in whole {
        assert!(file::decode(&id("torn"), &bytes).is_ok());
        for cut in 0..bytes.len() {
            assert!(file::decode(&id("torn"), &bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match file::decode(&id("torn"), &flipped) {
                Err(_) => {}
                // The checksum's letters may change their case.
                Ok(_) => assert!(bytes[bit / 8].is_ascii_hexdigit() && bit / 8 < 26 && bit % 8 == 5, "bit {bit}"),
            }
        }
        assert!(file::decode(&id("torn"), &[&bytes[..], b"\n"].concat()).is_err(), "too long");
    }
    for (n, cut) in [0, 5, 30, 200].into_iter().enumerate() {
        let scratch = Scratch::new();
        scratch.open().records.put(&entry("sound", Stage::Intent)).expect("put");
        let torn = entry("torn", started());
        fs::write(scratch.path_of(&torn), &encoded(&torn)[..cut]).expect("write");
        let Opened { records, open, .. } = scratch.open();
        assert_eq!(open, [entry("sound", Stage::Intent)], "{n}");
        assert_eq!(scratch.names("jobs"), ["sound.job"]);
        let asides = records.quarantined();
        assert_eq!((asides.len(), asides[0].job.clone(), asides[0].bytes), (1, Some(id("torn")), cut as u64));
        assert!(asides[0].why.starts_with("it is "), "{}", asides[0].why);
    }
}

fn encoded(entry: &Entry) -> Vec<u8> {
    let (head, body) = file::encode(entry).expect("JSON");
    [head.as_bytes(), &body].concat()
}

#[test]
fn what_is_not_ours_is_set_aside_with_its_reason() {
    let scratch = Scratch::new();
    drop(scratch.open());
    let jobs = scratch.dir.join("jobs");
    let later = String::from_utf8(encoded(&entry("later", Stage::Intent))).expect("UTF-8");
    fs::write(jobs.join("later.job"), later.replace("cronium-journal 1", "cronium-journal 2")).expect("write");
    fs::write(jobs.join("other.job"), encoded(&entry("not-other", Stage::Intent))).expect("write");
    fs::write(jobs.join("odd name ü"), "x").expect("write");
    fs::create_dir(jobs.join("folder.job")).expect("folder");
    std::os::unix::fs::symlink("/etc/passwd", jobs.join("link.job")).expect("link");
    run("mkfifo", &[jobs.join("pipe.job").to_str().expect("UTF-8")]);
    let huge = fs::File::create(jobs.join("huge.job")).expect("file");
    huge.set_len(limits::RECORD_FILE_MAX as u64 + 1).expect("sparse");
    fs::write(jobs.join(format!("{}9", files::UNFINISHED)), "half").expect("write");
    fs::write(jobs.join(PROBE), "left").expect("write");
    let Opened { records, open, ended } = scratch.open();
    assert!(open.is_empty() && ended.is_empty() && scratch.names("jobs").is_empty());
    let why = |job: &str| {
        let all = records.quarantined();
        all.iter().find(|a| a.name.ends_with(job)).map(|a| a.why.clone()).unwrap_or_else(|| panic!("{job}: {all:?}"))
    };
    for (name, words) in [
        ("later.job", "version 2"),
        ("other.job", "the entry of job not-other"),
        ("odd_name__", "not a record file"),
        ("folder.job", "not a record file"),
        ("link.job", "not a record file"),
        ("pipe.job", "not a record file"),
    ] {
        assert!(why(name).contains(words), "{name}: {}", why(name));
    }
    assert!(fs::metadata("/etc/passwd").is_ok());
    assert!(why("huge.job").contains("longer than"), "and nothing had to give way to it");
}

#[test]
fn what_is_set_aside_is_bounded_and_the_newest_is_kept() {
    let scratch = Scratch::new();
    let records = scratch.open().records;
    for n in 0..limits::QUARANTINE_FILES + 7 {
        let entry = entry(&format!("j{n}"), Stage::Intent);
        records.put(&entry).expect("put");
        assert!(records.quarantine(&entry.job, &format!("number {n} {}", "ü".repeat(1000))));
    }
    assert!(!records.quarantine(&id("j1"), "it is gone"));
    let asides = records.quarantined();
    assert_eq!(asides.len(), limits::QUARANTINE_FILES);
    assert_eq!(asides.last().and_then(|a| a.job.clone()), Some(id(&format!("j{}", limits::QUARANTINE_FILES + 6))));
    assert!(asides.iter().all(|a| a.why.starts_with("number ") && a.why.len() <= limits::QUARANTINE_REASON));
    assert!(!asides.iter().any(|a| a.job == Some(id("j3"))));
    assert_eq!(scratch.names("aside").len(), 2 * limits::QUARANTINE_FILES);
    let held = entry("held", ended(1, "words"));
    assert!(records.write_to_quarantine(&held, "refused"));
    let kept = records.quarantined().pop().expect("kept");
    assert_eq!((kept.job, kept.why.as_str()), (Some(id("held")), "refused"));
    let bytes = fs::read(scratch.dir.join("aside").join(kept.name)).expect("read");
    assert_eq!(file::decode(&held.job, &bytes), Ok(held));
}

#[test]
fn a_second_agent_is_refused_and_told_who_the_first_is() {
    let scratch = Scratch::new();
    let first = scratch.open().records;
    let clone = first.clone();
    drop(first);
    let dir = scratch.dir.clone();
    let (told, tell) = std::sync::mpsc::channel();
    let second = threads::spawn("t-second", move || told.send(RecordStore::open(&dir).map(drop)).expect("told"));
    let error = tell.recv_timeout(Duration::from_secs(10)).expect("an answer").expect_err("must be refused");
    second.expect("a thread").join_within(Duration::from_secs(5));
    let words = error.to_string();
    assert!(words.contains(&format!("(process {})", std::process::id())) && words.contains("state.dir"), "{words}");
    drop(clone);
    drop(scratch.open());
    assert!(matches!(RecordStore::open(Path::new("/no/such/state")), Err(RecordError::Io { .. })));
}

#[test]
fn a_process_that_was_killed_holds_nothing() {
    let scratch = Scratch::new();
    drop(scratch.open());
    // Another process, which locks the file as the agent does and is killed.
    let lock = scratch.dir.join(LOCK);
    let script = "exec 9<>\"$1\"; flock -n 9 || exit 1; echo $$ >\"$1\"; echo held; exec sleep 60";
    let mut child = Command::new("sh")
        .args(["-c", script, "sh", lock.to_str().expect("UTF-8")])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("sh");
    let mut word = [0; 5];
    child.stdout.take().expect("stdout").read_exact(&mut word).expect("held");
    let error = RecordStore::open(&scratch.dir).expect_err("locked");
    assert!(matches!(&error, RecordError::Locked { pid, .. } if *pid == child.id().to_string()), "{error}");
    child.kill().expect("kill");
    child.wait().expect("wait");
    drop(scratch.open());
}

#[test]
fn a_full_disk_is_told_and_keeps_the_entry_before() {
    let scratch = Scratch::tmpfs("size=64k");
    let records = scratch.open().records;
    let before = entry("a", started());
    records.put(&before).expect("put");
    let big = Entry { stage: ended(1, &"x".repeat(60_000)), ..before.clone() };
    let error = records.put(&big).expect_err("full").to_string();
    assert!(error.contains("a.job") && error.contains("make room in state.dir"), "{error}");
    assert_eq!(records.trouble(), Some(error));
    assert_eq!(records.read(&before.job).expect("read"), Some(before.clone()));
    assert_eq!(scratch.names("jobs"), ["a.job"], "nothing half-written stays");
    let filler = scratch.dir.join("filler");
    let _ = fs::write(&filler, vec![b'x'; 128 * 1024]);
    records.probe();
    assert!(records.trouble().is_some_and(|why| why.contains("make room")), "{:?}", records.trouble());
    fs::remove_file(filler).expect("remove");
    records.probe();
    assert_eq!((records.trouble(), scratch.names("jobs")), (None, vec!["a.job".to_owned()]));
    assert!(records.put(&big).is_err() && records.trouble().is_some());
    records.put(&before).expect("a small one");
    assert_eq!(records.trouble(), None, "a good write clears it");
}

#[test]
fn a_disk_that_turned_read_only_is_told_and_what_is_over_goes_later() {
    let scratch = Scratch::tmpfs("size=1m");
    let records = scratch.open().records;
    for job in ["a", "b", "c"] {
        records.put(&entry(job, started())).expect("put");
    }
    scratch.remount("ro");
    let error = records.put(&entry("a", ended(1, ""))).expect_err("read-only").to_string();
    assert!(error.contains("can be written"), "{error}");
    records.forget(&id("a"));
    records.remove(&id("b"));
    assert!(!records.quarantine(&id("c"), "refused"));
    records.probe();
    assert!(records.trouble().is_some());
    assert_eq!(scratch.names("jobs").len(), 3);
    scratch.remount("rw");
    // One of them has come again meanwhile: its entry stays.
    records.put(&entry("b", Stage::Intent)).expect("put");
    records.probe();
    assert_eq!((records.trouble(), scratch.names("jobs")), (None, vec!["b.job".to_owned(), "c.job".to_owned()]));
    drop(records);
    scratch.remount("ro");
    let error = RecordStore::open(&scratch.dir).expect_err("a start needs to write").to_string();
    assert!(error.contains("lock"), "{error}");
    scratch.remount("rw");
}

#[test]
fn jobs_do_not_wait_for_each_other_and_one_job_has_one_writer() {
    let scratch = Scratch::new();
    let records = scratch.open().records;
    let turn = records.turn(&id("a")).expect("free");
    records.put(&entry("b", Stage::Intent)).expect("another job's");
    let (other, (told, tell)) = (records.clone(), std::sync::mpsc::channel());
    let thread = threads::spawn("t-put", move || {
        other.put(&entry("a", Stage::Intent)).expect("put");
        told.send(()).expect("told");
    });
    assert!(tell.recv_timeout(Duration::from_millis(100)).is_err(), "the same job's waits");
    drop(turn);
    tell.recv_timeout(Duration::from_secs(10)).expect("and goes on");
    thread.expect("a thread").join_within(Duration::from_secs(5));
    let begun = Instant::now();
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let records = records.clone();
            threads::spawn("t-many", move || {
                for round in 0..20 {
                    let job = entry(&format!("t{n}-{}", round % 3), started());
                    records.put(&job).expect("put");
                    assert_eq!(records.read(&job.job).expect("read"), Some(job));
                }
            })
            .expect("a thread")
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join_within(Duration::from_secs(60)), threads::Ended::Returned);
    }
    assert_eq!(scratch.names("jobs").len(), 2 + 8 * 3, "{:?}", begun.elapsed());
}

/// Every word that a file can hold beside what the backend gets in the report: a new field has to be added here, by
/// somebody who has asked himself whether it could hold a secret.
#[test]
fn no_field_can_hold_a_secret() {
    fn names(value: &serde_json::Value, into: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(name, value)| {
                into.insert(name.clone());
                if name != "complete" && name != "update" {
                    names(value, into);
                }
            }),
            serde_json::Value::Array(all) => all.iter().for_each(|value| names(value, into)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    for entry in
        [entry("a", started()), entry("a", ended(1, "x")), Entry { place: servers(), ..entry("a", Stage::Intent) }]
    {
        names(&serde_json::to_value(&entry).expect("JSON"), &mut found);
    }
    let allowed = "Container Ended Servers Started Waiting attempts boot_id claimed_ms complete cpu cpu_seconds \
                   deadline_ms delivered directory disk execution exit_code has_updates host id image job kind language lines \
                   live login memory message name open output owed part pids place port reason record recorded remains \
                   report sequence server_id since_ms stage started_ms status stderr stdout timeout_ms \
                   timeout_name update user";
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>().join(" "), allowed);
}
