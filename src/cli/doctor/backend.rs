//! The way to the backend, one line a step, so that the report shows which step fails: proxy, name, TLS, an answer, the
//! token, the clock. Nothing is claimed and nothing is changed there.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use crate::api::Client;
use crate::api::certificate::{self, At};
use crate::cli::version::VERSION;
use crate::config::types::{Api, Tls, Way};
use crate::config::url;
use crate::limits;
use crate::logs;
use crate::os::clock::Deadline;
use crate::os::stop::Stop;
use crate::os::way;
use crate::proofs::finding::Finding;
use crate::proofs::outside::{Target, target};
use crate::wire::proxy::authority;
use crate::wire::time::rfc3339;
use crate::wire::x509::Certificate;

/// Of [`checks`].
pub(super) const NAMES: [&str; 6] = ["proxy", "dns", "tls", "backend", "token", "clock"];

const REACH_HINT: &str = "check api.endpoint, the network between, and that the backend runs";

const DAY: u64 = 86_400;

/// How long the steps may take.
#[derive(Debug, Clone, Copy)]
struct Waits {
    tls: Duration,
    call: Duration,
}

/// All checks of this file, in the order of [`NAMES`].
pub(super) fn checks(api: &Api, tls: &Tls, agent: &str) -> Vec<Finding> {
    checks_within(api, tls, agent, Waits { tls: limits::DOCTOR_TLS, call: limits::DOCTOR_CALL })
}

fn checks_within(api: &Api, tls: &Tls, agent: &str, waits: Waits) -> Vec<Finding> {
    let target = target(&api.endpoint);
    let through = api.way.proxy.as_ref();
    let proxy = proxy(api, &target, waits.call);
    let (dns, addresses) = match through {
        Some(proxy) => {
            (Finding::ok(format!("{proxy} resolves {}: this host's resolver is not asked", target.host)), vec![])
        }
        None => resolve(&target),
    };
    let at = through.map_or(At::Addresses(&addresses), |proxy| At::Behind(proxy, target.port));
    let mut checks = vec![proxy, dns, handshake(&target, tls, at, waits.tls)];
    let patience = api.timeout.min(waits.call);
    let hint = if patience < api.timeout {
        format!("{REACH_HINT}; a call has {patience:?} here (limits::DOCTOR_CALL), whatever api.timeout is")
    } else {
        REACH_HINT.to_owned()
    };
    let api = Api { timeout: patience, ..api.clone() };
    let client = match Client::new(&api, tls, agent, VERSION, Stop::new()) {
        Ok(client) => client,
        Err(error) => {
            checks.push(Finding::fail(error.to_string(), "correct the key that is named"));
            checks.extend([(); 2].map(|()| Finding::unknown("no client for the backend")));
            return checks;
        }
    };
    let health = client.health();
    checks.push(match &health {
        Ok(took) => Finding::ok(format!("{} answered in {} ms", api.endpoint, took.as_millis())),
        // It answers. The next check is about the token.
        Err(error) if matches!(error.status(), Some(401 | 403)) => Finding::ok(format!("{} answers", api.endpoint)),
        Err(error) => Finding::fail(error.to_string(), hint),
    });
    checks.push(token(&client, agent));
    checks.push(clock(&client));
    checks
}

/// Shows which proxy is used for what, and asks each for a tunnel.
fn proxy(api: &Api, target: &Target, limit: Duration) -> Finding {
    let how = |way: &Way| match &way.proxy {
        Some(proxy) => format!("through {proxy} ({})", way.why),
        None => format!("directly ({})", way.why),
    };
    let used = match api.way == api.ws_way {
        true => format!("calls and live lines go {}", how(&api.way)),
        false => format!("calls go {}, live lines {}", how(&api.way), how(&api.ws_way)),
    };
    let live = url::parse(&api.ws_endpoint, &["ws", "wss"]);
    let live = live.map(|url| (url.host, url.port.unwrap_or(if url.scheme == "wss" { 443 } else { 80 })));
    let mut tried = Vec::new();
    for (way, place) in [(&api.way, Ok((target.host.as_str(), target.port))), (&api.ws_way, live)] {
        let (Some(proxy), Ok(place)) = (&way.proxy, place) else { continue };
        let (begun, deadline) = (Instant::now(), Deadline::after(limit, "limits::DOCTOR_CALL"));
        if let Err(error) = way::connect(Some(proxy), place, deadline) {
            return Finding::fail(error.to_string(), error.advice("api.endpoint"));
        }
        tried.push(format!("a tunnel to {} in {} ms", authority(place.0, place.1), begun.elapsed().as_millis()));
    }
    tried.dedup_by(|a, b| a.split(" in ").next() == b.split(" in ").next());
    let others = "image pulls are the engine's, and HTTP requests of jobs and servers use none";
    match tried.is_empty() {
        true => Finding::ok(used),
        false => Finding::ok(format!("{used}: {}; {others}", tried.join(", "))),
    }
}

/// Finds the host's addresses.
fn resolve(target: &Target) -> (Finding, Vec<SocketAddr>) {
    if let Some(address) = target.address() {
        let addresses = vec![SocketAddr::new(address, target.port)];
        return (Finding::ok(format!("api.endpoint is an address, {address}: no name to resolve")), addresses);
    }
    let begun = Instant::now();
    match target.find() {
        Ok(found) => {
            let shown: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
            let took = begun.elapsed().as_millis();
            (Finding::ok(format!("{} is {}, in {took} ms", target.host, shown.join(", "))), found)
        }
        Err(error) => {
            let hint = "check the name in api.endpoint and this host's resolver (/etc/resolv.conf, resolvectl query)";
            (Finding::fail(error.to_string(), hint), Vec::new())
        }
    }
}

fn handshake(target: &Target, tls: &Tls, at: At<'_>, limit: Duration) -> Finding {
    let addresses = if let At::Addresses(addresses) = at { addresses } else { &[] };
    if !target.secure {
        let local = addresses.iter().all(|address| address.ip().is_loopback()) && !addresses.is_empty();
        return if local {
            Finding::ok("none: plain http, which does not leave this host")
        } else {
            let hint = "use https in api.endpoint: anyone on the way can read the token and every script";
            Finding::warn("none: plain http to another machine", hint)
        };
    }
    if addresses.is_empty() && matches!(at, At::Addresses(_)) {
        return Finding::unknown("the host has no address");
    }
    let config = match logs::tls_config(tls) {
        Ok(config) => config,
        Err(error) => return Finding::fail(error.to_string(), "correct the key that is named"),
    };
    let trust = match &tls.ca_file {
        Some(file) if tls.enabled => format!("{} (security.tls.caFile)", file.display()),
        _ => "the built-in roots".to_owned(),
    };
    match certificate::look(config, &target.host, at, limit) {
        Ok(chain) => judge_chain(&chain, &trust, SystemTime::now()),
        Err(error) => {
            let hint = "check the backend's certificate (its name, its end), this host's clock, and for an authority of \
                        your own security.tls.enabled and caFile";
            Finding::fail(format!("{error}; trusted is {trust}"), hint)
        }
    }
}

/// Judges an accepted chain: its owner, and how long it lasts.
fn judge_chain(chain: &certificate::Chain, trust: &str, now: SystemTime) -> Finding {
    let end = chain.certificates.iter().min_by_key(|certificate| certificate.not_after);
    let (Some(own), Some(first_to_end)) = (chain.certificates.first(), end) else {
        return Finding::warn(
            format!("{}, and the chain cannot be read", chain.protocol),
            "look at it with openssl s_client",
        );
    };
    let left = first_to_end.not_after.duration_since(now).unwrap_or_default();
    let Certificate { subject, issuer, .. } = own;
    let who = if subject.is_empty() { "no common name" } else { subject };
    let measured = format!(
        "{}, chain of {}: {who}, issued by {issuer}, accepted by {trust}; ends in {} days ({}{})",
        chain.protocol,
        chain.sent,
        left.as_secs() / DAY,
        rfc3339(first_to_end.not_after, 0),
        if first_to_end == own { String::new() } else { format!(", of {}", first_to_end.subject) },
    );
    let hint = "renew the backend's certificate: from that moment on the agent reaches it no more";
    if left == Duration::ZERO {
        Finding::fail(measured, hint)
    } else if left < limits::DOCTOR_EXPIRY {
        Finding::warn(measured, hint)
    } else {
        Finding::ok(measured)
    }
}

/// Asks for the list of this agent's jobs: a call that needs the token and changes nothing.
fn token(client: &Client, agent: &str) -> Finding {
    let hint = "give the agent the backend's service token: api.tokenFile, or systemd's LoadCredential";
    match client.orphaned() {
        Ok(_) => Finding::ok(format!("accepted, as agent {agent}")),
        Err(error) if matches!(error.status(), Some(401 | 403)) => Finding::fail(error.to_string(), hint),
        Err(error) => Finding::unknown(error.to_string()),
    }
}

fn clock(client: &Client) -> Finding {
    let hint = "synchronise this host's time (timedatectl set-ntp true): times in reports are wrong by as much, and TLS may fail";
    match client.clock_skew() {
        Some(skew) if skew.is_off => Finding::warn(format!("this host's clock is {skew}"), hint),
        Some(skew) => Finding::ok(format!("this host's clock is {skew}")),
        None => Finding::warn(
            "not known: no answer had a date",
            "see to the backend first; a proxy may also leave the date out",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;
    use crate::api::certificate::Chain;
    use crate::api::testing::{Act, Server};
    use crate::os::threads;
    use crate::proofs::finding::Grade;

    #[test]
    fn a_chain_is_as_good_as_what_ends_first() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 * DAY);
        let certificate = |subject: &str, days: u64| Certificate {
            subject: subject.to_owned(),
            issuer: "an authority".to_owned(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs((1_000 + days) * DAY),
        };
        let chain = |days: &[u64]| {
            let certificates: Vec<_> =
                days.iter().zip(["own", "middle"]).map(|(d, name)| certificate(name, *d)).collect();
            Chain { protocol: "TLSv1_3".to_owned(), sent: certificates.len(), certificates }
        };
        for (days, grade, words) in [
            (&[90, 900][..], Grade::Ok, "ends in 90 days"),
            (&[90, 3][..], Grade::Warn, "ends in 3 days"),
            (&[90, 3][..], Grade::Warn, "of middle"),
            (&[13][..], Grade::Warn, "own, issued by an authority"),
            (&[14][..], Grade::Ok, "14 days"),
            (&[0][..], Grade::Fail, "ends in 0 days"),
            (&[][..], Grade::Warn, "cannot be read"),
        ] {
            let check = judge_chain(&chain(days), "x", now);
            assert_eq!(check.grade, grade, "{check:?}");
            assert!(check.measured.contains(words), "{check:?}");
        }
    }

    const WAIT: Duration = Duration::from_millis(100);

    fn silent(api: &Api, waits: Waits) -> (Vec<Finding>, Duration) {
        let begun = Instant::now();
        (checks_within(api, &Tls::default(), "a", waits), begun.elapsed())
    }

    #[test]
    fn a_backend_that_does_not_answer_costs_a_persons_patience_and_not_the_agents() {
        let server = Server::start(|_, _| Act::Stall(Vec::new()));
        let api = Api { timeout: Duration::from_secs(2), ..server.api() };
        let (checks, took) = silent(&api, Waits { tls: WAIT, call: WAIT });
        for check in &checks[3..5] {
            assert!(check.grade == Grade::Fail && check.measured.contains("took longer than"), "{check:?}");
        }
        assert!(checks[3].hint.contains("100ms here (limits::DOCTOR_CALL)"), "{checks:?}");
        assert!(took < api.timeout, "{took:?}");
    }

    #[test]
    fn a_backend_that_does_not_get_on_with_its_handshake_is_given_up() {
        // One says nothing; the other begins a record of 4 KiB and sends a byte now and then.
        for talks in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            let (over, ended) = channel::<()>();
            let until = Instant::now() + Duration::from_secs(3);
            let server = threads::spawn("t-silent", move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let _ = stream.write_all(&[22, 3, 3, 16, 0]);
                while Instant::now() < until && ended.recv_timeout(WAIT / 5) == Err(RecvTimeoutError::Timeout) {
                    let _ = stream.write_all(if talks { &[0] } else { &[] });
                }
            });
            let tls =
                handshake(&target(&format!("https://{address}")), &Tls::default(), At::Addresses(&[address]), WAIT);
            assert_eq!(tls.grade, Grade::Fail);
            assert!(tls.measured.contains("no handshake within 100ms (limits::DOCTOR_TLS)"), "{talks}: {tls:?}");
            drop(over);
            server.expect("a thread").join_within(Duration::from_secs(5));
        }
    }
}
