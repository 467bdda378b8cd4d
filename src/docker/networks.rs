//! The one bridge that jobs share, with traffic between its members switched off.
//!
//! A network of its own for each job would cost 80 ms to make, 200 ms to remove, and the engine's address pools end
//! at about thirty. One bridge with `enable_icc=false` keeps jobs apart as well: neither ping nor TCP passes between two.

use crate::docker::client::{Client, encode, parse, words, work};
use crate::docker::error::Error;
use crate::metrics::DockerOperation;
use crate::wire::scan::Json;

const ICC: &str = "com.docker.network.bridge.enable_icc";

/// What the shared bridge must be like; its name says the same, so that two settings never meet on one bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// Whether jobs may reach each other.
    pub icc: bool,
    /// Whether there is no way out of it.
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
    /// Makes the bridge unless it is there; refuses one of that name that is made differently.
    pub fn ensure_bridge(&self, bridge: Bridge) -> Result<(), Error> {
        let name = bridge.name();
        if !bridge.icc && self.is_podman()? {
            // It would take the option and leave it out.
            let what =
                "Podman does not keep containers of one network apart, so that jobs could reach each other; set \
                        container.network.mode to none, or to a network of your own if they may"
                    .to_owned();
            return Err(Error::Unfit { doing: format!("make network {name}"), what });
        }
        match self.check_bridge(bridge) {
            Err(error) if error.status() == Some(404) => {}
            result => return result,
        }
        let body = serde_json::json!({
            "Name": name,
            "CheckDuplicate": true,
            "Driver": "bridge",
            "Internal": bridge.internal,
            "Options": { ICC: bridge.icc.to_string() },
            "Labels": { "cronium.managed": "true" },
        })
        .to_string();
        let doing = format!("create network {name}");
        let made =
            self.send(DockerOperation::Network, &doing, "POST", "/networks/create", Some(body.as_bytes()), work());
        match made {
            // Another agent on this host was quicker.
            Err(error) if error.status() == Some(409) => self.check_bridge(bridge),
            Err(error) => Err(error),
            Ok(_) => {
                log::info!("created network {name}");
                // An engine may leave out an option that it does not know.
                self.check_bridge(bridge)
            }
        }
    }

    fn check_bridge(&self, bridge: Bridge) -> Result<(), Error> {
        let name = bridge.name();
        let doing = format!("look at network {name}");
        let answer = self.get(DockerOperation::Network, &doing, &format!("/networks/{}", encode(name)))?;
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
