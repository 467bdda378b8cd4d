//! What holds for messages of the live log's server, whatever they are. See [`crate::fuzzing`].

use serde_json::Value;

use super::ServerEvent;
use super::link::{Heard, hear};
use crate::wire::scan::Json;

pub fn live_message(data: &[u8]) {
    let heard = hear(data);
    let Ok(message) = serde_json::from_slice::<Value>(data) else { return };
    let payload = &message["payload"];
    // Where another reader finds a sound message, this one does; or it is too deep, or says a thing twice.
    let twice = || {
        let text = String::from_utf8_lossy(data);
        let refused = Json::strict(data).is_err() || text.contains('\\');
        refused
            || ["\"type\"", "\"payload\"", "\"batch\"", "\"jobId\""].iter().any(|name| text.matches(name).count() > 1)
    };
    match message["type"].as_str() {
        Some("ack") => {
            let wanted = payload["batch"].as_u64();
            let got = if let Heard::Ack(batch) = heard { Some(batch) } else { None };
            assert!(got == wanted || twice(), "{heard:?}");
        }
        Some("jobs") => assert!(heard == Heard::Event(ServerEvent::JobsQueued) || twice(), "{heard:?}"),
        Some("cancel") => match heard {
            Heard::Event(ServerEvent::Cancel(id)) => assert!(payload["jobId"] == id.as_str() || twice()),
            Heard::Unusable(_) => {}
            other => assert!(twice(), "{other:?}"),
        },
        Some(_) => assert!(heard == Heard::Other || twice(), "{heard:?}"),
        None => assert!(matches!(heard, Heard::Unusable(_)) || twice(), "{heard:?}"),
    }
}
