//! Which proxy the way to the backend goes through: `api.proxy`, or the variables that other programs use too.
//!
//! Rank: `api.proxy`; else `https_proxy` (for `https` and `wss`) or `http_proxy`, then `all_proxy`. Lower case ranks above
//! upper case, as for curl. The variables never hold for this host's loopback, nor for what `NO_PROXY` names.

use super::draft::Draft;
use super::url;
use crate::wire::proxy::{Exceptions, Proxy};

/// `api.proxy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ProxyKey {
    /// Not set: the environment says.
    #[default]
    Environment,
    None,
    Proxy(Proxy),
}

/// The way to one address of the backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// None: directly.
    pub proxy: Option<Proxy>,
    /// Why it is this way, for people.
    pub why: String,
}

pub(super) fn check(text: &str) -> Result<String, String> {
    parse(text).map(|_| text.to_owned())
}

pub(super) fn parse(text: &str) -> Result<ProxyKey, String> {
    match text {
        "" => Ok(ProxyKey::Environment),
        "none" => Ok(ProxyKey::None),
        text => Proxy::parse(text, "api.proxy").map(ProxyKey::Proxy),
    }
}

pub(super) fn show(key: &ProxyKey) -> String {
    match key {
        ProxyKey::Environment => String::new(),
        ProxyKey::None => "none".to_owned(),
        ProxyKey::Proxy(proxy) => proxy.to_string(),
    }
}

/// Finds the ways to `api.endpoint` and `api.wsEndpoint`.
pub(super) fn ways(draft: &mut Draft<'_>) {
    if !draft.good(&["api.proxy", "api.endpoint", "api.wsEndpoint"]) || draft.config.api.endpoint.is_empty() {
        return;
    }
    let api = &draft.config.api;
    let env = |name: &str| if draft.sources.file_alone { None } else { (draft.sources.env)(name) };
    let (http, live) = (way(&api.proxy, &env, &api.endpoint), way(&api.proxy, &env, &api.ws_endpoint));
    let unread = set(&env, &["no_proxy", "NO_PROXY"]).map_or(0, |(_, list)| Exceptions::parse(&list).unread);
    let used = matches!(api.proxy, ProxyKey::Environment) && [&http, &live].iter().any(|way| way.is_ok());
    if unread > 0 && used {
        draft.warn("api.proxy", format!("NO_PROXY holds entries that cannot be read ({unread}); they name no host"));
    }
    match (http, live) {
        (Ok(http), Ok(live)) => (draft.config.api.way, draft.config.api.ws_way) = (http, live),
        (Err(why), _) | (_, Err(why)) => draft.refuse("api.proxy", why),
    }
}

/// The first of these variables that is set, with its name.
fn set(env: &dyn Fn(&str) -> Option<String>, names: &[&str]) -> Option<(String, String)> {
    names.iter().find_map(|name| Some(((*name).to_owned(), env(name).filter(|value| !value.trim().is_empty())?)))
}

fn way(key: &ProxyKey, env: &dyn Fn(&str) -> Option<String>, endpoint: &str) -> Result<Way, String> {
    let direct = |why: String| Ok(Way { proxy: None, why });
    match key {
        ProxyKey::None => return direct("api.proxy is none".to_owned()),
        ProxyKey::Proxy(proxy) => return Ok(Way { proxy: Some(proxy.clone()), why: "api.proxy".to_owned() }),
        ProxyKey::Environment => {}
    }
    let Ok(url) = url::parse(endpoint, &["http", "https", "ws", "wss"]) else { return Ok(Way::default()) };
    let secure = matches!(url.scheme, "https" | "wss");
    let names: &[&str] = match secure {
        true => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        false => &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
    };
    let Some((name, value)) = set(env, names) else {
        return direct(format!("neither api.proxy nor {} names one", names[1]));
    };
    if url::is_loopback(url.host) {
        return direct(format!("{name} does not hold for this host's loopback"));
    }
    let port = url.port.unwrap_or(if secure { 443 } else { 80 });
    if let Some((exceptions, list)) = set(env, &["no_proxy", "NO_PROXY"])
        && let Some(entry) = Exceptions::parse(&list).find(url.host, port)
    {
        return direct(format!("{entry} of {exceptions} names it"));
    }
    match Proxy::parse(value.trim(), &name) {
        Ok(proxy) => Ok(Way { proxy: Some(proxy), why: name }),
        Err(why) => Err(format!(
            "{name} names a proxy that cannot be used: {why}; correct it, or set api.proxy (`none`: no proxy)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way to `endpoint` with these variables.
    fn shown(key: &str, env: &[(&str, &str)], endpoint: &str) -> Result<String, String> {
        let env = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let way = way(&parse(key).expect("a value"), &env, endpoint)?;
        Ok(way.proxy.map_or("direct".to_owned(), |proxy| proxy.to_string()) + ", " + &way.why)
    }

    #[test]
    fn the_key_ranks_above_the_environment_and_lower_case_above_upper() {
        let all = [("HTTPS_PROXY", "http://up:1"), ("https_proxy", "http://low:1"), ("http_proxy", "plain:1")];
        let https = "https://backend.example/api";
        assert_eq!(shown("", &all, https).expect("a way"), "http://low:1, https_proxy");
        assert_eq!(shown("", &all[..1], https).expect("a way"), "http://up:1, HTTPS_PROXY");
        assert_eq!(shown("", &all, "http://backend.example/api").expect("a way"), "http://plain:1, http_proxy");
        assert_eq!(shown("", &all, "wss://backend.example/s").expect("a way"), "http://low:1, https_proxy");
        assert_eq!(shown("", &all, "ws://backend.example/s").expect("a way"), "http://plain:1, http_proxy");
        assert_eq!(shown("", &[("ALL_PROXY", "a:1")], https).expect("a way"), "http://a:1, ALL_PROXY");
        assert_eq!(shown("http://k:1", &all, https).expect("a way"), "http://k:1, api.proxy");
        assert_eq!(shown("http://k:1", &all, "http://127.0.0.1:1").expect("a way"), "http://k:1, api.proxy");
        assert_eq!(shown("none", &all, https).expect("a way"), "direct, api.proxy is none");
        assert!(shown("", &[("HTTPS_PROXY", " ")], https).expect("a way").starts_with("direct, neither"));
        assert!(shown("", &[], https).expect("a way").contains("nor HTTPS_PROXY names one"));
    }

    #[test]
    fn loopback_and_exceptions_are_direct() {
        let env = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "corp.example,10.0.0.0/8,x.example:5001")];
        for (endpoint, direct) in [
            ("https://localhost:1", true),
            ("https://127.9.9.9", true),
            ("https://[::1]", true),
            ("https://a.corp.example", true),
            ("https://10.1.1.1", true),
            ("https://x.example:5001", true),
            ("https://x.example", false),
            ("https://11.1.1.1", false),
        ] {
            assert_eq!(shown("", &env, endpoint).expect("a way").starts_with("direct"), direct, "{endpoint}");
        }
        assert_eq!(
            shown("", &env, "https://a.corp.example").expect("a way"),
            "direct, corp.example of NO_PROXY names it"
        );
        assert!(shown("http://p:1", &env, "https://10.1.1.1").expect("a way").starts_with("http://p"), "the key's own");
    }

    #[test]
    fn a_proxy_of_another_kind_is_an_error_where_it_would_be_used() {
        let env = [("HTTPS_PROXY", "socks5://me:hunter2@p:1")];
        let said = shown("", &env, "https://backend.example").expect_err("SOCKS");
        assert!(said.contains("HTTPS_PROXY") && said.contains("not http") && !said.contains("hunter2"), "{said}");
        assert!(shown("", &env, "https://127.0.0.1").is_ok());
        assert!(shown("none", &env, "https://backend.example").is_ok());
        assert!(parse("socks5://me:hunter2@p").is_err_and(|why| !why.contains("hunter2")));
    }
}
