//! What a job's request becomes: addresses in all their spellings, headers that would change the connection, redirects.

use super::*;

fn request(method: &str, url: &str, headers: &[(&str, &str)], body: Option<&str>) -> Request {
    Request {
        method: method.to_owned(),
        url: Secret::new(url),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect(),
        body: body.map(Secret::new),
    }
}

fn hop(request: &Request) -> Hop {
    Hop::new(request).expect("a request").0
}

fn get(url: &str) -> Result<Hop, String> {
    Hop::new(&request("GET", url, &[], None)).map(|(hop, _)| hop)
}

#[test]
fn addresses_are_read_as_a_browser_reads_them() {
    for (url, want) in [
        ("http://a.example", "http://a.example/"),
        (" HTTPS://A.example:8443/x ", "https://A.example:8443/x"),
        ("http://a/x?y=1&z=2#part", "http://a/x?y=1&z=2"),
        ("http://a?y", "http://a/?y"),
        ("http://a/ä b", "http://a/%C3%A4%20b"),
        ("http://a/%41\r\nX: y", "http://a/%41%0D%0AX:%20y"),
        ("http://a/{id}|", "http://a/%7Bid%7D%7C"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("http://2130706433/", "http://2130706433/"),
        ("http://u:p@a/x", "http://a/x"),
        ("http://good.example@bad.example/", "http://bad.example/"),
        ("http://a\\@b/", "http://a/%5C@b/"),
    ] {
        assert_eq!(get(url).map(|hop| hop.uri.to_string()), Ok(want.to_owned()), "{url}");
    }
}

#[test]
fn what_is_no_address_is_refused_and_not_repeated() {
    for url in [
        "",
        "a.example",
        "//a",
        "ftp://hunter2",
        "file:///hunter2",
        "http:hunter2",
        "javascript://hunter2",
        "http://",
        "http:///x",
        "http://:80",
        "http://a:hunter2",
        "http://a:",
        "http://a:0",
        "http://a:65536",
        "http://a:80:80",
        "http://ä.example",
        "http://a b/",
        "http://a\r\nhunter2/",
        "http://a%2f",
        "http://[::1",
        "http://[zz]/",
        "http://-a/",
    ] {
        let why = get(url).expect_err(url);
        assert!(why.starts_with("its URL cannot be used: ") && !why.contains("hunter2"), "{url}: {why}");
    }
}

#[test]
fn methods_are_those_of_a_list() {
    for (method, want) in [("get", Some("GET")), (" Patch ", Some("PATCH")), ("DELETE", Some("DELETE"))] {
        let hop = hop(&request(method, "http://a", &[], None));
        assert_eq!(Some(hop.method.as_str()), want);
    }
    for method in ["", "CONNECT", "TRACE", "GET /x HTTP/1.1\r\nX:", "BREW"] {
        let why = Hop::new(&request(method, "http://a", &[], None)).expect_err(method);
        assert!(why.contains("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS") && !why.contains('\r'), "{why}");
    }
    assert!(hop(&request("HEAD", "http://a", &[], Some("body"))).body.is_none());
}

#[test]
fn headers_of_the_connection_are_left_out_and_none_can_begin_another_line() {
    let all = [("X-Key", " hunter2 "), ("Host", "b"), ("content-length", "9"), ("Transfer-Encoding", "chunked")];
    let (hop, left_out) = Hop::new(&request("POST", "http://a", &all, Some("x"))).expect("a request");
    assert_eq!(left_out, ["host", "content-length", "transfer-encoding"]);
    assert_eq!((hop.headers.len(), hop.headers["x-key"].as_bytes()), (1, b"hunter2".as_slice()));
    assert!(!format!("{hop:?} {:?}", hop.headers).contains("hunter2"));
    for name in LEFT_OUT {
        let (hop, left_out) = Hop::new(&request("GET", "http://a", &[(name, "x")], None)).expect("a request");
        assert_eq!((hop.headers.len(), left_out.len()), (0, 1), "{name}");
    }
    for (name, value) in [
        ("X", "hunter2\r\nHost: b"),
        ("X", "hunter2\nY: z"),
        ("X", "hunter2\0"),
        ("X\r\nY", "hunter2"),
        ("X Y", "hunter2"),
        ("X:", "hunter2"),
        ("", "hunter2"),
        ("ä", "hunter2"),
    ] {
        let why = Hop::new(&request("GET", "http://a", &[(name, value)], None)).expect_err(name);
        assert!(why.starts_with("its header") && !why.contains("hunter2") && !why.contains('\n'), "{why}");
    }
    let long = "x".repeat(limits::REQUEST_HEAD_MAX);
    let why = Hop::new(&request("GET", "http://a", &[("X", &long)], None)).expect_err("too long");
    assert!(why.contains("limits::REQUEST_HEAD_MAX"), "{why}");
}

#[test]
fn a_login_in_the_address_becomes_a_header_and_is_shown_nowhere() {
    for (url, headers, want) in [
        ("http://me:hunter2@a/", &[] as &[(&str, &str)], "Basic bWU6aHVudGVyMg=="),
        ("http://me:hunter%32@a/", &[], "Basic bWU6aHVudGVyMg=="),
        ("http://me@a/", &[], "Basic bWU6"),
        ("http://me:hunter2@a/", &[("Authorization", "Bearer x")], "Bearer x"),
    ] {
        let hop = hop(&request("GET", url, headers, None));
        assert_eq!(hop.headers["authorization"], want, "{url}");
        assert_eq!(hop.origin(), "http://a");
    }
}

#[test]
fn a_redirect_leads_where_its_location_says() {
    let from = get("http://a.example/x/y?z").expect("an address");
    for (location, want) in [
        ("http://b.example/1", "http://b.example/1"),
        ("HTTPS://b.example/1#f", "https://b.example/1"),
        ("//b.example/1", "http://b.example/1"),
        ("/1?q=/../2", "http://a.example/1?q=/../2"),
        ("1", "http://a.example/x/1"),
        ("../1", "http://a.example/1"),
        ("../../../1/./2/..", "http://a.example/1/"),
        ("?q", "http://a.example/x/y?q"),
        ("#f", "http://a.example/x/y"),
    ] {
        assert_eq!(from.follow(302, location).map(|hop| hop.uri.to_string()), Ok(want.to_owned()), "{location}");
    }
    for location in ["", "ftp://b/", "file:///etc/passwd", "javascript:x", "gopher:x/y", "http://", "http://b:x/"] {
        assert!(from.follow(302, location).is_err(), "{location}");
    }
}

#[test]
fn a_redirect_takes_no_secret_to_another_origin() {
    let headers =
        [("Authorization", "a"), ("Cookie", "c"), ("X-Api-Key", "k"), ("Accept", "text/x"), ("Content-Type", "t")];
    let from = hop(&request("GET", "https://a.example/", &headers, None));
    assert_eq!(from.follow(302, "https://A.EXAMPLE:443/2").expect("the same").headers.len(), 5);
    for elsewhere in ["https://b.example/", "https://a.example:8443/", "//a.example.b.example/"] {
        let next = from.follow(302, elsewhere).expect("a redirect");
        let names: Vec<&str> = next.headers.keys().map(HeaderName::as_str).collect();
        assert!(names.len() == 2 && names.iter().all(|name| KEPT.contains(name)), "{elsewhere}: {names:?}");
    }
    assert!(from.follow(302, "http://a.example/").expect_err("unencrypted").contains("from https to http"));
    let login = hop(&request("GET", "http://me:hunter2@a.example/", &[], None));
    assert!(login.follow(302, "http://b.example/").expect("a redirect").headers.is_empty());
}

#[test]
fn a_redirect_keeps_method_and_body_where_the_standard_says_so_and_the_origin_stays() {
    let post = hop(&request("POST", "http://a/", &[("Content-Type", "t")], Some("b")));
    for (status, method, body) in
        [(301, "GET", false), (302, "GET", false), (303, "GET", false), (307, "POST", true), (308, "POST", true)]
    {
        let next = post.follow(status, "/2").expect("a redirect");
        assert_eq!((next.method.as_str(), next.body.is_some()), (method, body), "{status}");
        assert_eq!(next.headers.contains_key("content-type"), body, "{status}");
    }
    assert!(post.follow(307, "http://b/").expect_err("elsewhere").contains("would get the body"));
    assert_eq!(post.follow(303, "http://b/").expect("a redirect").method, Method::GET);
    let head = hop(&request("HEAD", "http://a/", &[], None));
    assert_eq!(head.follow(302, "/2").expect("a redirect").method, Method::HEAD);
    let delete = hop(&request("DELETE", "http://a/", &[], None));
    assert_eq!(delete.follow(302, "/2").expect("a redirect").method, Method::GET);
    assert_eq!(delete.follow(308, "/2").expect("a redirect").method, Method::DELETE);
}

#[test]
fn whatever_an_address_holds_it_is_refused_or_one_line_to_one_host() {
    const PARTS: [&str; 26] = [
        "http://",
        "https://",
        "HTTP://",
        "//",
        "/",
        "\\",
        "a.example",
        "b",
        "@",
        ":",
        "80",
        ":0",
        "[",
        "]",
        "::1",
        "%",
        "%0d%0a",
        "\r\n",
        "\0",
        " ",
        "?",
        "#",
        "..",
        "ä",
        "\u{202e}",
        "hunter2",
    ];
    let mut random = crate::wire::random::Random::new(11);
    let base = get("https://a.example/x/y").expect("an address");
    let mut good = 0;
    for _ in 0..30_000 {
        let parts = (0..1 + random.below(8)).map(|_| PARTS[random.below(PARTS.len())]);
        let text: String = parts.collect();
        for (hop, from) in [(get(&text), "address"), (base.follow(302, &text), "redirect")] {
            let Ok(hop) = hop else { continue };
            let uri = hop.uri.to_string();
            assert!(uri.bytes().all(|byte| byte.is_ascii_graphic()), "{from} {text:?}: {uri:?}");
            let authority = hop.uri.authority().expect("an authority").as_str();
            assert!(!authority.contains('@') && !hop.uri.host().expect("a host").is_empty(), "{from} {text:?}: {uri}");
            assert!(matches!(hop.uri.scheme_str(), Some("http" | "https")), "{from} {text:?}: {uri}");
            good += 1;
        }
    }
    assert!(good > 1000, "{good}");
}
