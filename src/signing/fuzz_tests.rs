//! What holds for receipts and for the files that decide what may run. See [`crate::fuzzing`].

use super::receipt::Receipt;
use super::scripts::Scripts;
use super::sign::SigningKey;
use super::{hex, keys};
use crate::limits;
use crate::wire::fuzz::Dice;
use crate::wire::scan::Json;

/// A key that no input was signed with.
pub(crate) fn own_key() -> SigningKey {
    SigningKey::make().expect("random bytes").0
}

pub fn receipt_text(data: &[u8]) {
    thread_local! {
        static KEY: SigningKey = own_key();
    }
    let Ok(found) = Json::strict(data).map_err(drop).and_then(|json| Receipt::read(json).map_err(drop)) else { return };
    let again = found.to_json();
    let read = |text: &str| Receipt::read(Json::strict(text.as_bytes()).expect("JSON"));
    assert_eq!(read(&again).as_ref(), Ok(&found), "what is written reads back");
    KEY.with(|key| {
        let trusted = keys::parse(&key.line(&found.key_id)).expect("its name is one");
        assert!(found.verify(&trusted).is_err(), "a signature that nobody made");
        let Ok(mut made) = Receipt::sign(key, &found.key_id, found.facts.clone()) else { return };
        let is_good = made.verify(&trusted).is_ok();
        let agent = found.key_id.rsplit_once('@').map(|(agent, _)| agent);
        assert!(!is_good || made.facts.get("agent").map(String::as_str) == agent, "another agent's");
        made.facts.insert("another".to_owned(), hex(data)[..data.len().min(8)].to_owned() + "-fact");
        assert!(made.facts == found.facts || made.verify(&trusted).is_err(), "with a fact more");
    });
}

pub fn trusted_keys(data: &[u8]) {
    let mut dice = Dice(data);
    let is_list = dice.byte() & 1 == 1;
    let text = String::from_utf8_lossy(dice.0);
    let why = if is_list {
        let Err(why) =
            Scripts::parse(&text).map(|list| assert!((1..=limits::ALLOWED_SCRIPTS_MAX).contains(&list.len())))
        else {
            return;
        };
        why
    } else {
        match keys::parse(&text) {
            Ok(found) => {
                assert!((1..=limits::SIGNING_KEYS_MAX).contains(&found.len()));
                for key in &found {
                    assert!(keys::check_name(&key.name).is_ok() && key.line <= text.lines().count());
                    // The line alone means the same.
                    let line = text.trim_start_matches('\u{feff}').lines().nth(key.line - 1).expect("its line");
                    let alone = keys::parse(line).expect("it was read");
                    assert_eq!(alone, [keys::TrustedKey { line: 1, ..key.clone() }]);
                }
                return;
            }
            Err(why) => why,
        }
    };
    assert!(!why.contains(char::is_control) && (why.starts_with("line ") || why.starts_with("it holds no")), "{why:?}");
}
