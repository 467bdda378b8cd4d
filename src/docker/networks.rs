//! The one bridge that jobs share, with traffic between its members switched off.
//!
//! One network per job would cost 80 ms to make and 200 ms to remove, and the engine's address pools end at about
//! thirty. One bridge with `enable_icc=false` separates jobs as well: neither ping nor TCP passes between two.
//!
//! Network and interface have one fixed name, so that a firewall can name it (configs/firewall). An engine before 25.0 makes
//! two networks of one name if two agents ask at the same moment, and then neither can be found by name. It never gives two
//! networks the same interface.

use std::path::Path;

use crate::docker::client::{Client, encode, number, parse, words, work};
use crate::docker::error::Error;
use crate::limits;
use crate::metrics::DockerOperation;
use crate::os::{clock, files};
use crate::wire::scan::{FieldsError, Json};

const ICC: &str = "com.docker.network.bridge.enable_icc";
const INTERFACE: &str = "com.docker.network.bridge.name";
const GATEWAYS: [&str; 2] =
    ["com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"];
/// The first API version of Docker 28, which can leave a bridge without an address of the host.
const ISOLATES: (u32, u32) = (1, 48);
const LABEL: &str = "cronium.managed";

/// The properties of the shared bridge. Its name encodes them, so that two settings never share one bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// Whether jobs may reach each other.
    pub icc: bool,
    /// Whether it has no way out, but to the host where the engine is older than Docker 28.
    pub internal: bool,
}

/// The network of a bridge's name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Missing,
    /// Its id.
    Fits(String),
    /// Its id, whether an agent made it, and how it differs.
    Other {
        id: String,
        ours: bool,
        what: String,
    },
}

impl Bridge {
    /// The network's name, and its interface's on the engine's host. The firewall's rules match all that begin with
    /// `cronium`.
    pub fn name(self) -> &'static str {
        match (self.icc, self.internal) {
            (false, false) => "cronium0",
            (false, true) => "cronium1",
            (true, false) => "cronium2",
            (true, true) => "cronium3",
        }
    }

    /// The driver's options on an engine that speaks this API version.
    fn options(self, api: &str) -> Vec<(&'static str, String)> {
        let mut options = vec![(ICC, self.icc.to_string()), (INTERFACE, self.name().to_owned())];
        if self.internal && number(api) >= ISOLATES {
            // Without them the host has an address on the bridge, by which jobs reach its services.
            options.extend(GATEWAYS.map(|key| (key, "isolated".to_owned())));
        }
        options
    }

    /// The body of the request that makes it.
    fn body(self, api: &str) -> serde_json::Value {
        let options: serde_json::Map<_, _> =
            self.options(api).into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        serde_json::json!({
            "Name": self.name(),
            "CheckDuplicate": true,
            "Driver": "bridge",
            "Internal": self.internal,
            "EnableIPv6": false,
            "Options": options,
            "Labels": { LABEL: "true" },
        })
    }

    /// Compares the engine's network of this name with what it should be.
    fn compare(self, answer: Json<'_>, api: &str, podman: bool) -> Result<Found, FieldsError> {
        let [id, driver, internal, ipv6, options, labels] =
            answer.fields(["Id", "Driver", "Internal", "EnableIPv6", "Options", "Labels"])?;
        let mut wrong = Vec::new();
        let mut expect = |what: &str, found: String, wanted: &str| {
            if found != wanted {
                wrong.push(format!("{what} is {}, not {wanted}", if found.is_empty() { "not set" } else { &found }));
            }
        };
        let truth = |value: Option<Json<'_>>| value.is_some_and(Json::is_true).to_string();
        let option = |key| options.and_then(|options| options.field(key)).map(|value| words(Some(value)));
        expect("the driver", words(driver), "bridge");
        expect("Internal", truth(internal), if self.internal { "true" } else { "false" });
        expect("EnableIPv6", truth(ipv6), "false");
        let wanted = self.options(api);
        for (key, value) in &wanted {
            // What the engine does not name is its default. Podman does not name the interface.
            let found = option(*key).unwrap_or_else(|| if *key == ICC { "true".to_owned() } else { String::new() });
            if !(podman && *key == INTERFACE) {
                expect(key, found, value);
            }
        }
        for key in GATEWAYS.into_iter().filter(|key| wanted.iter().all(|(wanted, _)| wanted != key)) {
            // The engine's own configuration may set one that lets others in.
            let found = option(key).filter(|mode| !mode.is_empty() && mode != "isolated");
            expect(key, found.unwrap_or_else(|| "nat".to_owned()), "nat");
        }
        if wrong.is_empty() {
            return Ok(Found::Fits(words(id)));
        }
        let ours = labels.and_then(|labels| labels.field(LABEL)).is_some_and(|value| value.is("true"));
        Ok(Found::Other { id: words(id), ours, what: wrong.join("; ") })
    }
}

impl Client {
    /// Makes the bridge unless it exists. One with other properties is made anew if an agent made it and nothing is
    /// attached to it; any other is refused.
    pub fn ensure_bridge(&self, bridge: Bridge) -> Result<(), Error> {
        self.ensure(bridge, |interface| self.sees_interface(interface))
    }

    fn ensure(&self, bridge: Bridge, sees: impl Fn(&str) -> bool) -> Result<(), Error> {
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
        let mut made = false;
        loop {
            let in_time = clock::now() < until;
            match self.find_bridge(bridge)? {
                Found::Fits(id) => {
                    self.note_bridge(id);
                    return Ok(());
                }
                // Another agent's network is visible a moment after its interface.
                Found::Missing if sees(bridge.name()) => {
                    if !in_time {
                        return Err(taken(bridge));
                    }
                    clock::sleep(limits::NETWORK_DELAY);
                }
                Found::Missing => match self.make_bridge(bridge) {
                    Ok(()) => made = true,
                    Err(error) if matches!(error.status(), Some(403 | 409)) && in_time => {
                        clock::sleep(limits::NETWORK_DELAY);
                    }
                    Err(error) => return Err(error),
                },
                Found::Other { id, ours: true, what } if !made && in_time => self.remove_bridge(bridge, &id, &what)?,
                Found::Other { what, .. } => {
                    let cure = if made {
                        "although this agent has just asked for it: see default-network-opts in the engine's daemon.json"
                    } else {
                        "and this agent did not make it"
                    };
                    let what = format!(
                        "{what}, {cure}; remove it (docker network rm {name}) or set container.network.mode to a network \
                         of your own"
                    );
                    return Err(Error::Unfit { doing: format!("look at network {name}"), what });
                }
            }
        }
    }

    fn make_bridge(&self, bridge: Bridge) -> Result<(), Error> {
        let name = bridge.name();
        let body = bridge.body(&self.engine_api()?).to_string();
        let doing = format!("create network {name}");
        self.send(DockerOperation::Network, &doing, "POST", "/networks/create", Some(body.as_bytes()), work())?;
        log::info!("created network {name}");
        Ok(())
    }

    fn find_bridge(&self, bridge: Bridge) -> Result<Found, Error> {
        let name = bridge.name();
        let doing = format!("look at network {name}");
        let answer = match self.get(DockerOperation::Network, &doing, &format!("/networks/{}", encode(name))) {
            Err(error) if error.status() == Some(404) => return Ok(Found::Missing),
            // Somebody made several without an interface's name.
            Err(Error::Refused { message, .. }) if message.contains("ambiguous") => {
                let what = format!("{message}; remove them (docker network ls, docker network rm ID)");
                return Err(Error::Unfit { doing, what });
            }
            answer => answer?,
        };
        let (api, podman) = (self.engine_api()?, self.is_podman()?);
        parse(&doing, &answer.body, |found| bridge.compare(found, &api, podman))
    }

    /// Removes a network by its id: another agent may have made one of this name anew. The engine refuses while a
    /// container runs on it.
    fn remove_bridge(&self, bridge: Bridge, id: &str, what: &str) -> Result<(), Error> {
        let name = bridge.name();
        let doing = format!("make network {name} anew");
        match self.send(DockerOperation::Network, &doing, "DELETE", &format!("/networks/{}", encode(id)), None, work())
        {
            Err(error) if error.status() == Some(404) => Ok(()),
            Err(Error::Refused { status: 403 | 409, message, .. }) => {
                let what = format!(
                    "{what}, and containers still run on it; the agent makes it anew once none does (docker network rm \
                     {name} does the same). If none does, the engine counts one that is gone: restart it. It says: {message}"
                );
                Err(Error::Unfit { doing, what })
            }
            result => {
                result?;
                log::info!("removed network {name} to make it anew: {what}");
                Ok(())
            }
        }
    }

    /// Whether the engine's host has an interface of this name, as far as this process can see.
    fn sees_interface(&self, name: &str) -> bool {
        // Any user may read it: the interfaces of the engine's own network namespace, which may not be ours.
        let read = |pid| files::read_small(Path::new(&format!("/proc/{pid}/net/dev")), limits::INTERFACES);
        let list = self.engine_pid().and_then(|pid| read(pid).ok()).unwrap_or_default();
        list.lines().any(|line| line.split_once(':').is_some_and(|(found, _)| found.trim() == name))
    }
}

/// Docker would take over an interface that it did not make and change its address, without a word.
fn taken(bridge: Bridge) -> Error {
    let name = bridge.name();
    let what = format!(
        "the host has an interface {name} already, and no network of this engine has it: a second engine on this host \
         has made it (then make a network for this agent and name it as container.network.mode: docker network create \
         -o {ICC}=false -o {INTERFACE}=cronium9 NAME), or it was left behind (ip link delete {name})"
    );
    Error::Unfit { doing: format!("create network {name}"), what }
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
        Engine::start(move |_| {
            let (code, body) = next.lock().expect("no panic")().expect("an answer");
            Act::Answer(code, body)
        })
    }

    const FITS: &str = r#"{"Driver":"bridge","Options":{"com.docker.network.bridge.enable_icc":"false",
        "com.docker.network.bridge.name":"cronium0"}}"#;
    /// One of that name with another interface.
    const OLD: &str = r#"{"Id":"a1","Driver":"bridge","Options":{"com.docker.network.bridge.enable_icc":"false"},
        "Labels":{"cronium.managed":"true"}}"#;

    fn ensure(engine: &Engine) -> Result<(), Error> {
        engine.client().ensure(BRIDGE, |_| false)
    }

    fn refused(engine: &Engine) -> String {
        ensure(engine).expect_err("it does not fit").to_string()
    }

    #[test]
    fn a_network_that_another_agent_makes_is_waited_for() {
        Ahead::run(|_| {
            let taken = r#"{"message":"conflicts with network x: networks have same bridge name"}"#;
            let engine = engine(&[(404, "{}"), (403, taken), (404, "{}"), (409, "{}"), (200, FITS)]);
            ensure(&engine).expect("it is there in the end");
        });
    }

    #[test]
    fn a_network_that_the_engine_refuses_is_asked_for_so_long_and_no_longer() {
        Ahead::run(|_| {
            let engine = Engine::start(|call| match call {
                call if call.starts_with("POST") => Act::Answer(403, r#"{"message":"no more addresses"}"#.to_owned()),
                _ => Act::Answer(404, "{}".to_owned()),
            });
            let begun = clock::now();
            assert!(refused(&engine).contains("no more addresses"));
            let took = clock::now() - begun;
            assert!(took >= limits::NETWORK_PATIENCE && took < limits::NETWORK_PATIENCE * 2, "{took:?}");
        });
    }

    #[test]
    fn several_of_one_name_are_told_with_the_cure() {
        let engine = engine(&[(400, r#"{"message":"2 matches found based on name: network x is ambiguous"}"#)]);
        assert!(refused(&engine).contains("docker network rm ID"));
    }

    #[test]
    fn the_request_by_the_engines_version() {
        let bridge = |icc, internal| Bridge { icc, internal };
        let open = bridge(false, false).body("1.51");
        assert_eq!((&open["Name"], &open["EnableIPv6"]), (&"cronium0".into(), &false.into()));
        assert_eq!(open["Options"], serde_json::json!({ ICC: "false", INTERFACE: "cronium0" }));
        // Docker 27, which would ignore or refuse it.
        let before = bridge(false, true).body("1.47");
        assert_eq!((&before["Internal"], &before["Options"][GATEWAYS[0]]), (&true.into(), &serde_json::Value::Null));
        for api in ["1.48", "1.51", "2.0"] {
            let since = bridge(true, true).body(api);
            let options = serde_json::json!({
                ICC: "true", INTERFACE: "cronium3", GATEWAYS[0]: "isolated", GATEWAYS[1]: "isolated",
            });
            assert_eq!((&since["Internal"], &since["Options"]), (&true.into(), &options), "{api}");
        }
    }

    #[test]
    fn each_difference_is_named_and_what_an_engine_may_leave_out_is_none() {
        let compare = |bridge: Bridge, api: &str, text: &str| {
            bridge.compare(Json::strict(text.as_bytes()).expect("JSON"), api, false).expect("an object")
        };
        let internal = Bridge { icc: true, internal: true };
        let fits = r#"{"Driver":"bridge","Internal":true,"Options":{"com.docker.network.bridge.name":"cronium3"}}"#;
        assert_eq!(compare(BRIDGE, "1.41", FITS), Found::Fits(String::new()));
        assert_eq!(compare(internal, "1.41", fits), Found::Fits(String::new()));
        let with = |from: &str, to: &str| FITS.replace(from, to);
        let gateway = |mode| with(r#""Options":{"#, &format!(r#""Options":{{"{}":"{mode}","#, GATEWAYS[1]));
        assert_eq!(compare(BRIDGE, "1.48", &gateway("nat")), Found::Fits(String::new()));
        for (bridge, api, text, words) in [
            (BRIDGE, "1.41", with("bridge\"", "macvlan\""), "the driver is macvlan, not bridge"),
            (BRIDGE, "1.41", with("\"false\"", "\"true\""), "enable_icc is true, not false"),
            (BRIDGE, "1.41", with("cronium0", "br-1"), "bridge.name is br-1, not cronium0"),
            (BRIDGE, "1.41", with("{\"Driver", "{\"EnableIPv6\":true,\"Driver"), "EnableIPv6 is true, not false"),
            (BRIDGE, "1.41", with("{\"Driver", "{\"Internal\":true,\"Driver"), "Internal is true, not false"),
            (BRIDGE, "1.48", gateway("routed"), "gateway_mode_ipv6 is routed, not nat"),
            (internal, "1.48", fits.to_owned(), "gateway_mode_ipv4 is not set, not isolated"),
            (BRIDGE, "1.41", "{}".to_owned(), "the driver is not set, not bridge"),
        ] {
            let Found::Other { what, ours: false, .. } = compare(bridge, api, &text) else { panic!("{text}") };
            assert!(what.contains(words), "{what}");
        }
    }

    #[test]
    fn a_network_of_other_settings_is_made_anew_once_no_job_runs_on_it() {
        let idle = engine(&[(200, OLD), (204, ""), (404, "{}"), (201, "{}"), (200, FITS)]);
        ensure(&idle).expect("it is made anew");
        assert_eq!((idle.count("DELETE /networks/a1"), idle.count("POST /networks/create")), (1, 1));

        let busy = engine(&[(200, OLD), (403, r#"{"message":"x has active endpoints"}"#)]);
        let error = refused(&busy);
        for words in ["bridge.name is not set, not cronium0", "docker network rm cronium0", "active endpoints"] {
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(busy.count("POST"), 0);
        // Another agent made it anew at the same moment.
        ensure(&engine(&[(200, OLD), (404, "{}"), (200, FITS)])).expect("it is there");
    }

    #[test]
    fn what_no_agent_made_is_refused_with_the_cure_and_left_alone() {
        let foreign = engine(&[(200, &OLD.replace("cronium.managed", "other"))]);
        let error = refused(&foreign);
        assert!(error.contains("docker network rm cronium0") && error.contains("did not make it"), "{error}");
        assert_eq!((foreign.count("DELETE"), foreign.count("POST")), (0, 0));
        // An engine that does not do what it is asked for is not asked again.
        let deaf = engine(&[(404, "{}"), (201, "{}"), (200, OLD)]);
        let error = refused(&deaf);
        assert!(error.contains("default-network-opts"), "{error}");
        assert_eq!((deaf.count("DELETE"), deaf.count("POST")), (0, 1));
    }

    #[test]
    fn another_engines_interface_is_not_taken_over() {
        Ahead::run(|_| {
            let engine = engine(&[(404, "{}")]);
            let error = engine.client().ensure(BRIDGE, |name| name == "cronium0").expect_err("taken").to_string();
            assert!(error.contains("an interface cronium0") && error.contains("ip link delete cronium0"), "{error}");
            assert_eq!(engine.count("POST"), 0);
        });
    }

    #[test]
    fn the_interfaces_of_the_engines_host_are_seen() {
        let engine = engine(&[(404, "{}")]);
        assert_eq!(engine.client().engine_pid(), Some(std::process::id()));
        let sees = |name| engine.client().sees_interface(name);
        assert_eq!(["lo", "l", "face", "Inter-|", ""].map(sees), [true, false, false, false, false]);
    }
}
