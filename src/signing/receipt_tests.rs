//! The format of docs/receipts.md to the byte, and what makes a receipt count.

use super::*;
use crate::secret::Secret;
use crate::signing::hex;

/// The private key of RFC 8032, section 7.1, test 1.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";

fn key() -> SigningKey {
    SigningKey::of_pem(&Secret::new(PEM)).expect("a key")
}

fn trusted(rest: &str) -> Vec<TrustedKey> {
    let key = key();
    crate::signing::keys::parse(&format!("{} {rest}", key.line(&key_id("agent-1", key.public())))).expect("keys")
}

fn facts(more: &[(&str, &str)]) -> Facts {
    let all = [("agent", "agent-1"), ("exitCode", "0"), ("job", "job_1"), ("reportedAt", "2026-11-30T12:00:00.000Z")];
    all.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn receipt(more: &[(&str, &str)]) -> Receipt {
    Receipt::sign(&key(), &key_id("agent-1", key().public()), facts(more)).expect("signed")
}

fn read(text: &str) -> Result<Receipt, String> {
    Receipt::read(Json::strict(text.as_bytes()).map_err(|error| error.to_string())?)
}

/// A text as docs/receipts.md says it.
fn text(text: &str) -> Vec<u8> {
    let mut all = u32::try_from(text.len()).expect("short").to_be_bytes().to_vec();
    all.extend_from_slice(text.as_bytes());
    all
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let want = [
        ["cronium.receipt.1", "a@0"].map(text).concat(),
        vec![0, 0, 0, 3],
        ["B", "2", "a", "ä", "a.b", ""].map(text).concat(),
    ];
    let facts = [("a.b", ""), ("a", "ä"), ("B", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(bytes("a@0", &Facts::from(facts)), Ok(want.concat()));
}

/// The vector of docs/receipts.md: who writes a verifier in another language compares with it.
#[test]
fn the_documented_vector_holds() {
    let page = include_str!("../../docs/receipts.md");
    let made = receipt(&[("verdict", "the script ended with exit code 0"), ("stdoutLength", "3")]);
    assert_eq!(made.verify(&trusted("")), Ok(()));
    let sum = sha256(&bytes(&made.key_id, &made.facts).expect("bytes"));
    for vector in [&made.key_id, &sum, &made.value, &hex(key().public())] {
        assert!(page.contains(vector.as_str()), "docs/receipts.md lacks {vector}");
    }
    let json = page.split("```json").nth(1).and_then(|rest| rest.split("```").next()).expect("a vector");
    assert_eq!(read(json.trim()), Ok(made));
}

#[test]
fn each_changed_byte_is_found() {
    let made = receipt(&[("verdict", "ünlike")]);
    assert_eq!(read(&made.to_json()), Ok(made.clone()));
    let json = made.to_json().into_bytes();
    let mut found = 0;
    for at in 0..json.len() {
        for flip in [1, 2, 32] {
            let mut other = json.clone();
            other[at] ^= flip;
            let Ok(other) = std::str::from_utf8(&other).map_err(|_| ()).and_then(|text| read(text).map_err(|_| ()))
            else {
                continue;
            };
            // The last of the signature's base64 has bits that mean nothing: a decoder refuses those.
            assert!(other.verify(&trusted("")).is_err(), "changed at {at}: {other:?}");
            found += 1;
        }
    }
    assert!(found > 400, "{found} of them are receipts at all");
}

#[test]
fn two_receipts_cannot_be_joined() {
    let (one, two) = (receipt(&[("x", "1")]), receipt(&[("exitCode", "7"), ("y", "2")]));
    assert_ne!(one.value, two.value);
    for joined in [
        Receipt { value: two.value.clone(), ..one.clone() },
        Receipt { facts: one.facts.clone().into_iter().chain(two.facts.clone()).collect(), ..two.clone() },
        Receipt { facts: facts(&[]), ..one.clone() },
        // A border between name and value, and between two facts.
        Receipt { facts: facts(&[("x1", "")]), ..one.clone() },
        Receipt { facts: facts(&[("", "x1")]), ..one.clone() },
    ] {
        let why = joined.verify(&trusted("")).expect_err("joined");
        assert!(why.contains("does not fit"), "{why}");
    }
}

#[test]
fn another_key_or_another_agents_does_not_count() {
    let made = receipt(&[]);
    let (other, _) = SigningKey::make().expect("a key");
    let named = crate::signing::keys::parse(&other.line(&made.key_id)).expect("a key of this name");
    let strange = crate::signing::keys::parse(&other.line("x")).expect("a key");
    for (keys, words) in [
        (named, "does not fit"),
        (strange, "is not among the trusted ones"),
        (trusted("revoked"), "is revoked"),
        (trusted("not-before=2026-12-01"), "was not valid when it was made"),
        (trusted("not-after=2026-11-30"), "was not valid when it was made"),
    ] {
        let why = made.verify(&keys).expect_err(words);
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(made.verify(&trusted("not-before=2026-11-30 not-after=2026-12-01")), Ok(()));
    // A trusted agent speaks for itself alone.
    let forged = Receipt::sign(&key(), &made.key_id, facts(&[("agent", "agent-2")])).expect("signed");
    assert!(forged.verify(&trusted("")).expect_err("forged").contains("not by the agent that its key"));
    let timeless = Receipt::sign(&key(), &made.key_id, facts(&[("reportedAt", "soon")])).expect("signed");
    assert!(timeless.verify(&trusted("")).expect_err("no time").contains("reportedAt is no time"));
}

#[test]
fn what_is_no_receipt_is_named() {
    let good = receipt(&[]).to_json();
    let many: Facts = (0..=limits::RECEIPT_FACTS_MAX).map(|at| (at.to_string(), "1".to_owned())).collect();
    for (text, words) in [
        ("[]".to_owned(), "must be an object"),
        (good.replace("\"version\":1", "\"version\":2"), "version is not known; 1 is"),
        (good.replace("\"version\":1", "\"version\":1,\"version\":1"), "version is given twice"),
        (good.replace("\"version\":1", "\"version\":1,\"more\":1"), "member \"more\" is not known"),
        (good.replace("\"keyId\":\"agent-1@", "\"keyId\":\"agent 1@"), "no name of a key"),
        (good.replace("\"exitCode\":\"0\"", "\"exitCode\":0"), "the fact \"exitCode\" must be text"),
        (good.replace("\"exitCode\":\"0\"", "\"exitCode\":\"0\",\"exitCode\":\"1\""), "\"exitCode\" is given twice"),
        (good.replace("\"exitCode\":\"0\"", &format!("\"exitCode\":\"{}\"", "0".repeat(9000))), "at most 8192 bytes"),
        (good.replace("\"facts\"", "\"fact\""), "not known"),
        (good.replace("\"exitCode\"", &format!("\"{}\"", "x".repeat(65))), "name of a fact must be text of at most 64"),
        (Receipt { facts: many, ..receipt(&[]) }.to_json(), "more than 1000 facts"),
    ] {
        let why = read(&text).map(drop).expect_err(words);
        assert!(why.contains(words), "{why}");
    }
    for (value, words) in [("AAAA", "3 bytes"), ("*", "not base64")] {
        let why = Receipt { value: value.to_owned(), ..receipt(&[]) }.verify(&trusted("")).expect_err(words);
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn what_an_agent_signs_it_can_read() {
    let long = "ä".repeat(limits::RECEIPT_TEXT_MAX);
    let made = receipt(&[("verdict", &long), ("nothing", "")]);
    assert!(!made.facts.contains_key("nothing"), "what is not known has no fact");
    assert!(made.facts["verdict"].ends_with("ä…") && made.facts["verdict"].len() <= limits::RECEIPT_TEXT_MAX);
    assert_eq!(read(&made.to_json()), Ok(made));
    assert_eq!((as_sent("a\0b"), as_sent("ab")), ("a\u{fffd}b".into(), "ab".into()));
}
