//! Each range of addresses, and each way to write one; what an operator's entries open, and what they never open.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

#[test]
fn each_range_has_its_class_at_both_ends() {
    for (class_of, addresses) in [
        (
            Public,
            "1.0.0.0 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 \
             168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 \
             192.0.1.0 192.0.3.0 192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 \
             198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255 2000:: 2001:200::1 2001:db7:ffff:: \
             2001:db9:: 2606:4700::1111 3ffe:ffff:: 3fff:1000:: ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1",
        ),
        (
            RANGE,
            "10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 172.16.0.0 172.31.255.255 192.168.0.0 \
             192.168.255.255 fc00:: fd00:: fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fec0::1 ::ffff:10.0.0.1 \
             ::ffff:c0a8:1 64:ff9b::10.0.0.1 2002:a00:1::1 2002:c0a8:101::",
        ),
        (
            SPECIAL,
            "192.0.2.0 192.0.2.255 198.18.0.0 198.19.255.255 198.51.100.1 203.0.113.1 2001:db8::1 3fff::1 \
             3fff:fff:ffff::",
        ),
        (LOOPBACK, "127.0.0.0 127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::"),
        (
            LINK_LOCAL,
            "169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255 fe80:: fe80::1 febf:ffff:: \
             ::ffff:169.254.169.254 64:ff9b::169.254.169.254 2002:a9fe:a9fe::",
        ),
        (
            METADATA,
            "168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 \
             ::ffff:100.100.100.200 64:ff9b::168.63.129.16",
        ),
        (
            RESERVED,
            "0.0.0.0 0.255.255.255 192.0.0.0 192.0.0.255 192.88.99.1 224.0.0.1 239.255.255.255 240.0.0.0 \
             255.255.255.255 :: ::2 ::10.0.0.1 ::8.8.8.8 ::ffff:0:10.0.0.1 64:ff9b:1::1 100::1 2001::1 2001:1ff:: \
             4000:: 5f00::1 ff02::1 ffff:: ::ffff:0.0.0.0 ::ffff:224.0.0.1 2002:e000:1::",
        ),
    ] {
        for address in addresses.split_whitespace() {
            assert_eq!(class(ip(address)), class_of, "{address}");
        }
    }
}

fn rules(allow: &[&str]) -> Rules {
    let allow = allow.iter().map(|entry| Pattern::parse(entry).expect(entry)).collect();
    Rules { allow, engine: Some(2375), own: vec![8080, 9090] }
}

fn may(allow: &[&str], host: &str, address: &str) -> Result<(), String> {
    rules(allow).check(host, SocketAddr::new(ip(address), 443), |_| false)
}

#[test]
fn an_entry_opens_what_it_lists_and_the_default_opens_what_is_public() {
    for (allow, host, address, opened) in [
        (&["*"] as &[&str], "a.example", "8.8.8.8", true),
        (&["*"], "a.example", "10.0.0.1", false),
        (&["*"], "10.0.0.1", "10.0.0.1", false),
        (&[], "a.example", "8.8.8.8", false),
        (&["a.example"], "a.example", "8.8.8.8", true),
        (&["a.example"], "b.example", "8.8.8.8", false),
        (&["a.example"], "A.Example.", "10.0.0.1", true),
        (&["*.example"], "a.example", "10.0.0.1", true),
        (&["*.example"], "a.elsewhere", "10.0.0.1", false),
        (&["10.0.0.0/24"], "anything", "10.0.0.7", true),
        (&["10.0.0.0/24"], "anything", "10.0.1.7", false),
        (&["10.0.0.0/24"], "anything", "::ffff:10.0.0.7", true),
        (&["10.0.0.0/24"], "anything", "2002:a00:7::", false),
        (&["10.0.0.0/24"], "anything", "8.8.8.8", false),
        (&["8.8.8.0/24"], "anything", "8.8.8.8", true),
        (&["fd00::/8"], "anything", "fd12::1", true),
        (&["*", "fd12::1"], "anything", "fd12::1", true),
        (&["0.0.0.0/0"], "anything", "192.168.1.1", true),
    ] {
        assert_eq!(may(allow, host, address).is_ok(), opened, "{allow:?} {host} {address}");
    }
}

#[test]
fn no_entry_opens_loopback_link_local_metadata_or_what_is_no_host() {
    let all = ["*", "0.0.0.0/0", "::/0", "127.0.0.1", "a.example", "*.example"];
    for address in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "fe80::1",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
        "0.0.0.0",
        "::",
        "255.255.255.255",
        "224.0.0.1",
        "ff02::1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ] {
        let why = may(&all, "a.example", address).expect_err(address);
        assert!(why.contains(address) && why.ends_with("which no request may reach"), "{why}");
        assert!(why.contains("an address of a.example"), "{why}");
    }
}

#[test]
fn a_private_address_is_refused_with_the_key_that_would_open_it() {
    let why = may(&["*"], "db.internal", "10.1.2.3").expect_err("private");
    let want = "10.1.2.3, an address of db.internal, is in a private range; to allow it, the operator lists it or the host in http.allow";
    assert_eq!(why, want);
    assert!(may(&["*"], "[fd00::1]", "fd00::1").expect_err("private").starts_with("fd00::1 is in a private range"));
    let why = may(&["a.example"], "b.example", "8.8.8.8").expect_err("not listed");
    assert_eq!(why, "8.8.8.8, an address of b.example, is not listed in http.allow");
}

#[test]
fn no_name_is_looked_up_that_no_answer_could_open() {
    for (allow, host, looked_up) in [
        (&["*"] as &[&str], "a.example", true),
        (&["a.example"], "a.example", true),
        (&["a.example"], "hunter2.b.example", false),
        (&["*.example"], "a.example", true),
        (&["10.0.0.0/8"], "a.example", true),
        (&[], "a.example", false),
    ] {
        assert_eq!(rules(allow).may_look_up(host).is_ok(), looked_up, "{allow:?} {host}");
    }
}

#[test]
fn the_engine_and_the_agent_are_out_of_reach_where_they_listen() {
    let rules = rules(&["*", "10.0.0.0/8"]);
    let may = |address: &str, own: bool| rules.check("a.example", address.parse().expect(address), |_| own);
    assert!(may("10.0.0.1:2375", false).expect_err("the engine").contains("container.docker.endpoint"));
    assert!(may("8.8.8.8:2375", false).is_err(), "an engine may have other addresses than the one it is reached by");
    assert!(may("10.0.0.1:2376", false).is_ok());
    for port in ["8080", "9090"] {
        assert!(may(&format!("10.0.0.1:{port}"), true).expect_err("the agent").contains("this agent's own"));
        assert!(may(&format!("10.0.0.1:{port}"), false).is_ok(), "another host's port");
    }
    assert!(may("10.0.0.1:80", true).is_ok());
}

#[test]
fn a_public_address_of_this_host_is_as_closed_as_a_private_one() {
    let check =
        |allow: &[&str], host: &str| rules(allow).check(host, "8.8.8.8:80".parse().expect("an address"), |_| true);
    assert!(check(&["*"], "a.example").expect_err("not listed").contains("is this host's own; to allow it"));
    assert!(check(&["*", "8.8.8.8"], "a.example").is_ok());
    assert!(check(&["a.example"], "a.example").is_ok());
}

#[test]
fn what_is_open_is_what_the_configuration_says() {
    let mut config = crate::config::defaults();
    assert_eq!(Rules::new(&config).allow, [Pattern::Any]);
    assert_eq!((Rules::new(&config).engine, Rules::new(&config).own), (None, vec![8080, 9090]));
    config.container.docker.endpoint = DockerEndpoint::Tcp("engine".to_owned(), 2375);
    config.monitoring.enabled = false;
    assert_eq!((Rules::new(&config).engine, Rules::new(&config).own), (Some(2375), Vec::new()));
}
