//! The receipt of a job: what is known of it, from the claim to its report, signed with the agent's own key.
//!
//! What is known only at the start stands in the job's record, so that the next agent has it too. What nobody knows has no
//! fact. docs/receipts.md names each fact.

use std::sync::Arc;

use crate::job::{Id, Job, Kind};
use crate::jobs::record::JobRecord;
use crate::limits;
use crate::os::clock;
use crate::signing::receipt::{Facts, Receipt, as_sent, key_id};
use crate::signing::sign::SigningKey;
use crate::signing::{canonical, sha256};
use crate::verdict::{Outcome, Span};
use crate::wire::time::rfc3339;

/// Makes receipts, where `security.receipts` wants them. Shared by clones.
#[derive(Clone, Default)]
pub struct Receipts(Option<Arc<Signer>>);

/// Who signs.
pub struct Signer {
    pub key: SigningKey,
    /// The agent's id.
    pub agent: String,
    /// The host's name, where it is known.
    pub host: Option<String>,
    /// What the last proof of the walls around jobs is worth now.
    pub proof: Box<dyn Fn() -> Facts + Send + Sync>,
}

/// A receipt that lacks the end.
pub struct Draft {
    signer: Arc<Signer>,
    facts: Facts,
}

impl Receipts {
    /// With `None` there are none.
    pub fn new(signer: Option<Signer>) -> Self {
        Self(signer.map(Arc::new))
    }

    /// What is known of a job that is claimed and not run. `None` where no receipts are wanted.
    pub(in crate::jobs) fn of_job(&self, job: &Job) -> Option<Facts> {
        self.0.as_ref()?;
        let mut facts = Facts::from([
            ("claimedAt".to_owned(), rfc3339(clock::wall(), 3)),
            ("attempts".to_owned(), job.attempts.to_string()),
        ]);
        facts.extend(canonical::sum(job).map(|sum| ("jobSha256".to_owned(), sum)));
        Some(facts)
    }

    /// The same of one that is about to run: with what is known of its walls.
    pub(in crate::jobs) fn begin(&self, job: &Job) -> Option<Facts> {
        let mut facts = self.of_job(job)?;
        if let (Some(signer), Kind::Container) = (&self.0, job.kind) {
            facts.extend((signer.proof)());
        }
        Some(facts)
    }

    /// Adds to the record what becomes known of a job.
    pub(in crate::jobs) fn note(&self, record: &JobRecord, facts: impl FnOnce() -> Facts) {
        if self.0.is_some() {
            record.note_facts(facts());
        }
    }

    /// The receipt of a job of which nothing but its id is known.
    pub(in crate::jobs) fn draft_of(&self, job: &Id) -> Option<Draft> {
        let signer = Arc::clone(self.0.as_ref()?);
        Some(Draft { signer, facts: adopted() }.with("job", job.as_str()))
    }

    /// The receipt of a job, as far as its record knows it.
    pub(in crate::jobs) fn draft(&self, record: &JobRecord) -> Option<Draft> {
        let signer = Arc::clone(self.0.as_ref()?);
        Some(Draft { signer, facts: record.facts() })
    }
}

impl Draft {
    /// One more fact.
    pub(in crate::jobs) fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.insert(name.into(), value.into());
        self
    }

    /// The whole receipt as JSON: with how the job ended, and `stdout` and `stderr` as its report carries them. `None` after
    /// an error, which is logged: a report does not wait for its receipt.
    pub(in crate::jobs) fn sign(mut self, outcome: &Outcome, (stdout, stderr): (&str, &str)) -> Option<String> {
        let Self { signer, facts } = &mut self;
        let mut add = |name: &str, value: String| drop(facts.insert(name.to_owned(), value));
        outcome.evidence.iter().for_each(|(name, value)| add(name, value.clone()));
        add("agent", signer.agent.clone());
        add("host", signer.host.clone().unwrap_or_default());
        add("agentVersion", env!("CARGO_PKG_VERSION").to_owned());
        let verdict = &outcome.verdict;
        add("status", verdict.status().as_str().to_owned());
        add("phase", verdict.phase.as_str().to_owned());
        add("reason", verdict.reason().to_owned());
        add("verdict", verdict.message.clone());
        add("exitCode", verdict.exit_code.to_string());
        for (name, text) in [("stdout", as_sent(stdout)), ("stderr", as_sent(stderr))] {
            add(&format!("{name}Sha256"), sha256(text.as_bytes()));
            add(&format!("{name}Length"), text.len().to_string());
        }
        if let Some(span) = &outcome.timings.execution {
            let Span { started, length } = *span;
            add("startedAt", rfc3339(started, 3));
            add("endedAt", rfc3339(started + length, 3));
        }
        add("reportedAt", rfc3339(clock::wall(), 3));
        let name = key_id(&signer.agent, signer.key.public());
        let made = Receipt::sign(&signer.key, &name, std::mem::take(facts));
        made.inspect_err(|why| log::error!("the job has no receipt: {why}")).ok().map(|receipt| receipt.to_json())
    }
}

/// How it ended on each of several servers, in their order.
pub(in crate::jobs) fn servers<'a>(draft: Draft, ends: impl ExactSizeIterator<Item = (&'a str, &'a Outcome)>) -> Draft {
    let mut draft = draft.with("servers", ends.len().to_string());
    for (at, (name, outcome)) in ends.take(limits::RECEIPT_SERVERS).enumerate() {
        let of = |what: &str| format!("server.{}.{what}", at + 1);
        draft = draft
            .with(of("name"), name)
            .with(of("reason"), outcome.verdict.reason())
            .with(of("exitCode"), outcome.verdict.exit_code.to_string());
    }
    draft
}

/// What the receipt says of a job that an earlier run of the agent had started.
pub(in crate::jobs) fn adopted() -> Facts {
    Facts::from([("adopted".to_owned(), "true".to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::conclude::unrun;
    use crate::signing::keys;
    use crate::verdict::{Phase, Timings, Verdict};
    use crate::wire::scan::Json;

    fn draft() -> Draft {
        let (key, _) = SigningKey::make().expect("a key");
        let proof = Box::new(Facts::new);
        Draft { signer: Arc::new(Signer { key, agent: "a".to_owned(), host: None, proof }), facts: Facts::new() }
    }

    fn read(json: &str) -> Receipt {
        Receipt::read(Json::strict(json.as_bytes()).expect("JSON")).expect("a receipt")
    }

    #[test]
    fn of_many_servers_the_first_are_named_and_all_counted() {
        let outcome = unrun(Verdict::infrastructure(Phase::Setup, "away"));
        let ends: Vec<_> = (0..limits::RECEIPT_SERVERS + 1).map(|_| ("name", &outcome)).collect();
        let made = servers(draft(), ends.into_iter()).sign(&outcome, ("", "")).expect("signed");
        let facts = read(&made).facts;
        assert_eq!(facts["servers"], "201");
        assert_eq!((facts["server.200.name"].as_str(), facts["server.200.exitCode"].as_str()), ("name", "125"));
        assert!(!facts.contains_key("server.201.name") && facts.len() <= limits::RECEIPT_FACTS_MAX);
    }

    #[test]
    fn a_receipt_says_how_it_ended_and_nothing_that_is_not_known() {
        let started = std::time::UNIX_EPOCH;
        let execution = Some(Span { started, length: std::time::Duration::from_millis(1500) });
        let verdict = Verdict { exit_code: 3, cause: crate::verdict::Cause::Exit, ..Verdict::refused("three") };
        let outcome = Outcome {
            timings: Timings { execution, ..Timings::default() },
            evidence: vec![("image", "x".to_owned()), ("httpAddress", String::new())],
            ..unrun(verdict)
        };
        let made = draft();
        let signer = Arc::clone(&made.signer);
        let receipt = read(&made.with("job", "j").sign(&outcome, ("out\0", "err")).expect("signed"));
        let line = signer.key.line(&receipt.key_id);
        assert_eq!(receipt.verify(&keys::parse(&line).expect("a key")), Ok(()));
        for (name, want) in [
            ("agent", "a"),
            ("job", "j"),
            ("image", "x"),
            ("status", "failed"),
            ("phase", "setup"),
            ("reason", "script"),
            ("exitCode", "3"),
            ("verdict", "three"),
            ("startedAt", "1970-01-01T00:00:00.000Z"),
            ("endedAt", "1970-01-01T00:00:01.500Z"),
            ("stdoutLength", "6"),
            ("stdoutSha256", &sha256("out\u{fffd}".as_bytes())),
            ("stderrSha256", &sha256(b"err")),
        ] {
            assert_eq!(receipt.facts.get(name).map(String::as_str), Some(want), "{name}");
        }
        for name in ["host", "httpAddress", "jobSha256", "execution"] {
            assert!(!receipt.facts.contains_key(name), "{name}");
        }
        assert!(Receipts::default().draft_of(&Id::parse("a").expect("id")).is_none());
    }
}
