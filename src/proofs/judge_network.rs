//! The lines of the proofs about the network: other jobs, this host, the cloud, name servers, the engine.

use super::facts::{Facts, Found, NotRun};
use super::finding::Finding;
use crate::config::types::{Network, NetworkMode};

pub(super) fn isolation(found: &Found, network: &Network) -> Result<Finding, NotRun> {
    let listening = found.listening.as_ref().map_err(NotRun::clone)?;
    let heard = Facts(found.listener.as_ref().map_err(NotRun::clone)?);
    let caller = Facts::whole(&found.reached)?;
    let reached = caller.one("reached").ok_or("it did not say whether it reached the other")?;
    let interfaces = caller.one("interfaces").unwrap_or_default();
    let Some(address) = listening.address else {
        if network.mode == NetworkMode::None && interfaces == "lo" && reached.starts_with("no") {
            return Ok(Finding::ok("no job has a network, only its own loopback"));
        }
        return Err(format!("the canary that listens has no address; the other has {interfaces}"));
    };
    if !listening.reaches_itself && found.host_reaches != Some(true) {
        return Err(format!("the control failed: nobody reaches {address}, not even itself"));
    }
    let own = caller.one("own").unwrap_or_default();
    if interfaces == "lo" || own.is_empty() {
        return Err("the control failed: the canary that calls has no network".to_owned());
    }
    let came = heard.all("came").any(|peer| own.split_whitespace().any(|own| own == peer));
    if reached == "yes" || came {
        let wanted = network.enable_icc || !matches!(network.mode, NetworkMode::Isolated);
        let hint = "set container.network.mode: isolated and enableICC: false; where they are set, this engine does not keep \
                    containers apart (its iptables?): use mode none";
        return Ok(Finding::open(wanted, format!("a job at {own} reaches another at {address}"), hint));
    }
    let by = if found.host_reaches == Some(true) { "this host reaches it" } else { "it reaches itself" };
    let why = reached.trim_start_matches("no: ");
    Ok(Finding::ok(format!("a job at {own} does not reach another at {address} ({why}), which listens: {by}")))
}

/// The services of this host, by the gateway of the jobs' network.
pub(super) fn host(found: &Found, network: &Network) -> Result<Finding, NotRun> {
    if network.mode == NetworkMode::None {
        return Ok(Finding::ok("no job has a network"));
    }
    let facts = Facts::whole(&found.reached)?;
    let Some(answer) = facts.one("host") else {
        return Ok(Finding::ok("not tried: the engine is on another host, or the jobs' network has no gateway"));
    };
    let Some(gateway) = answer.strip_prefix("open ") else {
        return Ok(Finding::ok(format!("a port of this host that was open did not answer a job: {answer}")));
    };
    let hint = "what listens on all addresses of this host answers jobs: let them listen on 127.0.0.1, use \
                scripts/install.sh --firewall=strict, or set container.network.mode: none";
    Ok(Finding::warn(format!("a job reaches the ports of this host by its gateway {gateway}"), hint))
}

pub(super) fn metadata(found: &Found, network: &Network) -> Result<Finding, NotRun> {
    let facts = Facts::whole(&found.locks)?;
    let answer = facts.one("metadata").ok_or("it did not say whether anything answered")?;
    let ways: Vec<&str> = facts.all("way-out").chain(facts.all("way-out-6")).filter(|way| !way.is_empty()).collect();
    let forbidden = network.internal || network.mode == NetworkMode::None;
    let hint = "set container.network.internal: true (isolated network) or mode: none, or use \
                scripts/install.sh --firewall=metadata: credentials of the machine are served there";
    if answer == "open" && forbidden {
        return Ok(Finding::fail("169.254.169.254 answers a job, although container.network forbids it", hint));
    }
    if answer == "open" {
        return Ok(Finding::warn("169.254.169.254 answers a job; container.network does not forbid it", hint));
    }
    let why = answer.trim_start_matches("closed: ");
    if !forbidden {
        let measured = format!("nothing answers a job at 169.254.169.254 ({why})");
        return Ok(Finding::ok(format!("{measured}; that nothing may is not configured (container.network.internal)")));
    }
    let outside = facts.one("outside");
    if outside == Some("open") {
        return Ok(Finding::fail("a job has a way out: it reaches the backend", hint));
    }
    let measured = format!("169.254.169.254 does not answer a job ({why})");
    if ways.is_empty() {
        return Ok(Finding::ok(format!("{measured}, which has no route to anywhere outside")));
    }
    // A route may end in the host's firewall. Only what this host can reach itself shows that.
    if found.host_reaches_cloud {
        return Ok(Finding::ok(format!("{measured}; it does answer this host")));
    }
    if outside.is_some() {
        return Ok(Finding::ok(format!("{measured}, nor does the backend, which this host reaches")));
    }
    let hint = "use container.network.mode: none where scripts need no network: there is no route then";
    let measured =
        format!("{measured}, nor does it answer this host: the route by {} may lead somewhere", ways.join(", "));
    Ok(Finding::warn(measured, hint))
}

/// Name servers, where the network must have no way out.
pub(super) fn names(found: &Found, network: &Network) -> Result<Finding, NotRun> {
    let Some(ran) = &found.names else {
        let why = match network.mode {
            NetworkMode::None => "no job has a network",
            NetworkMode::Isolated => "nothing to prove: jobs may resolve names, as container.network.internal is false",
            _ => "nothing to prove: container.network.mode is no isolated network",
        };
        return Ok(Finding::ok(why));
    };
    let facts = Facts::whole(ran)?;
    let mut answered: Vec<&str> = facts.all("dns").filter_map(|line| line.strip_suffix(" answered")).collect();
    answered.sort_unstable();
    if !answered.is_empty() {
        let hint = "a script can send data out in names (CVE-2024-29018): leave container.network.dns empty, update Docker to \
                    26.0 or later, use scripts/install.sh --firewall=strict, or set container.network.mode: none";
        let measured = format!("a job on the internal network gets names resolved by {}", answered.join(", "));
        return Ok(Finding::open(!network.dns.is_empty(), measured, hint));
    }
    if !facts.all("control").any(|line| line.ends_with(" answered")) {
        return Err("the control failed: the engine's resolver does not even know the container's own name".to_owned());
    }
    let measured = "no name server answers a job, neither the engine's for others nor this host's by UDP or TCP";
    let hint = "run this again where this host resolves names: only then does the silence show that a wall stands";
    Ok(match &found.host_resolver {
        Some(server) => Finding::ok(format!("{measured}; {server} does answer this host")),
        None => Finding::warn(format!("{measured}; none answers this host either"), hint),
    })
}

pub(super) fn socket(found: &Found) -> Result<Finding, NotRun> {
    let facts = Facts::whole(&found.locks)?;
    facts.one("looked").ok_or("it did not come to look")?;
    let mut seen: Vec<&str> = facts.all("socket").collect();
    seen.dedup();
    let hint = "anyone who reaches the engine is root on its host: keep its socket out of containers and its port off their network";
    if facts.one("engine") == Some("open") {
        return Ok(Finding::fail("a job reaches the engine's port", hint));
    }
    if !seen.is_empty() {
        return Ok(Finding::fail(format!("a job sees {}", seen.join(", ")), hint));
    }
    let port = facts.one("engine").map_or(String::new(), |answer| format!("; the engine's port is {answer}"));
    Ok(Finding::ok(format!("no socket of an engine is in the container, as a file, mount or name{port}")))
}
