//! The one bridge that jobs share, with traffic between its members switched off.
//!
//! One network per job would cost 80 ms to make and 200 ms to remove, and the engine's address pools end at about
//! thirty. One bridge with `enable_icc=false` separates jobs as well: neither ping nor TCP passes between two.
//!
//! An engine before 25.0 makes two networks of one name if two agents ask at the same moment; then neither can be found by
//! name. It never gives two networks the same interface, so the interface has a name that all agents agree on.

use crate::docker::client::{Client, encode, parse, words, work};
use crate::docker::error::Error;
use crate::limits;
use crate::metrics::DockerOperation;
use crate::os::clock;
use crate::wire::crc32;
use crate::wire::scan::Json;

const ICC: &str = "com.docker.network.bridge.enable_icc";
const INTERFACE: &str = "com.docker.network.bridge.name";

/// The properties of the shared bridge. Its name encodes them, so that two settings never share one bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// Whether jobs may reach each other.
    pub icc: bool,
    /// Whether it has no way out.
    pub internal: bool,
}

impl Bridge {
    /// The network's name.
    pub fn name(self) -> &'static str {
        match (self.icc, self.internal) {
            (false, false) => "cronium-isolated",
            (false, true) => "cronium-isolated-internal",
            (true, false) => "cronium-shared",
            (true, true) => "cronium-shared-internal",
        }
    }
}

impl Client {
    /// Makes the bridge unless it exists; refuses one of that name with other properties.
    pub fn ensure_bridge(&self, bridge: Bridge) -> Result<(), Error> {
        let name = bridge.name();
        if !bridge.icc && self.is_podman()? {
            // Podman accepts the option and ignores it.
            let what =
                "Podman does not keep containers of one network apart, so that jobs could reach each other; set \
                        container.network.mode to none, or to a network of your own if they may"
                    .to_owned();
            return Err(Error::Unfit { doing: format!("make network {name}"), what });
        }
        let until = clock::now() + limits::NETWORK_PATIENCE;
        loop {
            match self.check_bridge(bridge) {
                Err(error) if error.status() == Some(404) => {}
                result => return result,
            }
            match self.make_bridge(bridge) {
                // An engine may ignore an option that it does not know.
                Ok(()) => return self.check_bridge(bridge),
                // Another agent was first; its network is visible a moment later.
                Err(error) if matches!(error.status(), Some(403 | 409)) && clock::now() < until => {
                    clock::sleep(limits::NETWORK_DELAY);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn make_bridge(&self, bridge: Bridge) -> Result<(), Error> {
        let name = bridge.name();
        // At most 15 characters, and different from other engines on this host.
        let interface = format!("br-{:08x}", crc32::of(format!("{name} {}", self.info()?.id).as_bytes()));
        let body = serde_json::json!({
            "Name": name,
            "CheckDuplicate": true,
            "Driver": "bridge",
            "Internal": bridge.internal,
            "Options": { ICC: bridge.icc.to_string(), INTERFACE: interface },
            "Labels": { "cronium.managed": "true" },
        })
        .to_string();
        let doing = format!("create network {name}");
        self.send(DockerOperation::Network, &doing, "POST", "/networks/create", Some(body.as_bytes()), work())?;
        log::info!("created network {name}");
        Ok(())
    }

    fn check_bridge(&self, bridge: Bridge) -> Result<(), Error> {
        let name = bridge.name();
        let doing = format!("look at network {name}");
        let answer = match self.get(DockerOperation::Network, &doing, &format!("/networks/{}", encode(name))) {
            // Agents before 0.2 that started at the same moment made several.
            Err(Error::Refused { message, .. }) if message.contains("ambiguous") => {
                let what = format!("{message}; remove them (docker network ls, docker network rm ID)");
                return Err(Error::Unfit { doing, what });
            }
            answer => answer?,
        };
        let names = ["Driver", "Internal", "Options"];
        let [driver, internal, options] = parse(&doing, &answer.body, |found| found.fields(names))?;
        let (driver, internal) = (words(driver), internal.is_some_and(Json::is_true));
        let icc = options.and_then(|options| options.field(ICC)).is_none_or(|value| !value.is("false"));
        if driver == "bridge" && internal == bridge.internal && icc == bridge.icc {
            return Ok(());
        }
        let what = format!(
            "it is a {driver} network with internal={internal} and {ICC}={icc}, not what this agent made; remove it \
             (docker network rm {name}) or set container.network.mode to a network of your own"
        );
        Err(Error::Unfit { doing, what })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::docker::testing::{Act, Engine};
    use crate::os::ahead::Ahead;

    const BRIDGE: Bridge = Bridge { icc: false, internal: false };

    /// An engine that gives these answers to the calls about networks, the last of them again and again.
    fn engine(answers: &[(u16, &str)]) -> Engine {
        let mut answers: Vec<(u16, String)> =
            answers.iter().rev().map(|(code, body)| (*code, (*body).to_owned())).collect();
        let next = move || if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        let next = Mutex::new(next);
        Engine::start(move |call| match call {
            "GET /info" => Act::Answer(200, r#"{"ID":"one"}"#.to_owned()),
            _ => {
                let (code, body) = next.lock().expect("no panic")().expect("an answer");
                Act::Answer(code, body)
            }
        })
    }

    #[test]
    fn a_network_that_another_agent_makes_is_waited_for() {
        const FITS: &str = r#"{"Driver":"bridge","Options":{"com.docker.network.bridge.enable_icc":"false"}}"#;
        Ahead::run(|_| {
            let taken = r#"{"message":"conflicts with network x: networks have same bridge name"}"#;
            let engine = engine(&[(404, "{}"), (403, taken), (404, "{}"), (409, "{}"), (200, FITS)]);
            engine.client().ensure_bridge(BRIDGE).expect("it is there in the end");
        });
    }

    #[test]
    fn a_network_that_the_engine_refuses_is_asked_for_so_long_and_no_longer() {
        Ahead::run(|_| {
            let engine = Engine::start(|call| match call {
                "GET /info" => Act::Answer(200, "{}".to_owned()),
                call if call.starts_with("POST") => Act::Answer(403, r#"{"message":"no more addresses"}"#.to_owned()),
                _ => Act::Answer(404, "{}".to_owned()),
            });
            let begun = clock::now();
            let error = engine.client().ensure_bridge(BRIDGE).expect_err("it refuses");
            assert!(error.to_string().contains("no more addresses"), "{error}");
            let took = clock::now() - begun;
            assert!(took >= limits::NETWORK_PATIENCE && took < limits::NETWORK_PATIENCE * 2, "{took:?}");
        });
    }

    #[test]
    fn several_of_one_name_are_told_with_the_cure() {
        let engine = engine(&[(400, r#"{"message":"2 matches found based on name: network x is ambiguous"}"#)]);
        let error = engine.client().ensure_bridge(BRIDGE).expect_err("which one");
        assert!(error.to_string().contains("docker network rm ID"), "{error}");
    }
}
