//! The SSH algorithms: the agent has a list for every class. The library's defaults are never used: they hold SHA-1, CBC,
//! MD5 and host certificates, and change with its version.
//!
//! `ssh.security.allowedCiphers` and `allowedKeyExchanges` replace the list of their class, and a row of `ssh.hosts` these. The
//! others are fixed.

use ssh2::MethodType;

use crate::config::types::{HostRow, Ssh as Settings};
use crate::wire::kexinit::Offer;

/// No SHA-1, no group of less than 2048 bits. libssh2 adds `kex-strict-c-v00@openssh.com` and `ext-info-c` to any list.
const KEX: &[&str] = &[
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group-exchange-sha256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group14-sha256",
];
/// Plain keys alone: `known_hosts` cannot name a certificate. No DSA, no RSA with SHA-1.
const HOST_KEYS: &[&str] = &[
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];
/// GCM first: it is safe from the Terrapin attack also without strict key exchange.
const CIPHERS: &[&str] = &[
    "aes256-gcm@openssh.com",
    "aes128-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
];
const MACS: &[&str] =
    &["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"];
const COMPRESSION: &[&str] = &["none"];
/// How an RSA key signs. The other kinds of keys have one way each.
const SIGNATURES: &[&str] = &["rsa-sha2-512", "rsa-sha2-256"];

/// Markers in the list of key exchanges that are not key exchanges.
const NO_EXCHANGES: &[&str] = &["ext-info-c", "kex-strict-c-v00@openssh.com"];
/// How the names of certificates end.
const CERTIFICATE: &str = "-cert-v01@openssh.com";

/// A list for each class, in the order in which they are preferred.
#[derive(Debug)]
pub struct Algorithms {
    kex: Vec<String>,
    host_keys: Vec<String>,
    ciphers: Vec<String>,
    /// The keys of the configuration that `kex` and `ciphers` are from.
    keys: [String; 2],
}

impl Algorithms {
    /// As the row of `ssh.hosts` allows, or `ssh.security`; host keys as the caller wants them, see [`host_keys_first`].
    pub fn new(settings: &Settings, row: Option<&HostRow>, host_keys: Vec<String>) -> Self {
        let (row_kex, row_ciphers) = row.map_or((&[][..], &[][..]), |row| (&row.key_exchanges, &row.ciphers));
        let key = |list: &[String], name: &str, global: &str| match row {
            Some(row) if !list.is_empty() => format!("algorithms.{name} of {} in ssh.hosts", row.host),
            _ => format!("ssh.security.{global}"),
        };
        let keys = [key(row_kex, "keyExchanges", "allowedKeyExchanges"), key(row_ciphers, "ciphers", "allowedCiphers")];
        let given = |lists: [&[String]; 2], ours: &[&str]| {
            lists.into_iter().find(|list| !list.is_empty()).map_or_else(|| owned(ours), <[String]>::to_vec)
        };
        Self {
            kex: given([row_kex, &settings.allowed_key_exchanges], KEX),
            host_keys,
            ciphers: given([row_ciphers, &settings.allowed_ciphers], CIPHERS),
            keys,
        }
    }

    /// Sets the lists in libssh2; the error names the list of which it supports nothing.
    pub fn prefer(&self, session: &ssh2::Session) -> Result<(), String> {
        let (macs, compression, signatures) = (owned(MACS), owned(COMPRESSION), owned(SIGNATURES));
        for (kind, list) in [
            (MethodType::Kex, &self.kex),
            (MethodType::HostKey, &self.host_keys),
            (MethodType::CryptCs, &self.ciphers),
            (MethodType::CryptSc, &self.ciphers),
            (MethodType::MacCs, &macs),
            (MethodType::MacSc, &macs),
            (MethodType::CompCs, &compression),
            (MethodType::CompSc, &compression),
            (MethodType::SignAlgo, &signatures),
        ] {
            let list = list.join(",");
            session
                .method_pref(kind, &list)
                .map_err(|error| format!("this agent supports none of {list}: {}", error.message()))?;
        }
        Ok(())
    }

    /// A sentence about the first class in which this server has nothing in common with us.
    pub fn compare(&self, offer: &Offer) -> Option<String> {
        let (macs, compression) = (owned(MACS), owned(COMPRESSION));
        let ([key, cipher], fixed) = (self.keys.each_ref().map(String::as_str), "fixed, no key changes it");
        // These ciphers are authenticated.
        let needs_mac = |theirs: &[String]| first(&self.ciphers, theirs).is_none_or(|name| !name.contains("-gcm"));
        [
            ("key exchange", key, &self.kex, &offer.kex, true),
            ("host key", fixed, &self.host_keys, &offer.host_keys, true),
            ("cipher (client to server)", cipher, &self.ciphers, &offer.ciphers[0], true),
            ("cipher (server to client)", cipher, &self.ciphers, &offer.ciphers[1], true),
            ("MAC (client to server)", fixed, &macs, &offer.macs[0], needs_mac(&offer.ciphers[0])),
            ("MAC (server to client)", fixed, &macs, &offer.macs[1], needs_mac(&offer.ciphers[1])),
            ("compression (client to server)", fixed, &compression, &offer.compression[0], true),
            ("compression (server to client)", fixed, &compression, &offer.compression[1], true),
        ]
        .into_iter()
        .find(|(.., ours, theirs, needed)| *needed && first(ours, theirs).is_none())
        .map(|(class, key, ours, theirs, _)| nothing(class, key, ours, theirs))
    }
}

/// The message for a class with nothing in common.
fn nothing(class: &str, key: &str, ours: &[String], theirs: &[String]) -> String {
    let plain: Vec<&str> = theirs.iter().filter_map(|name| name.strip_suffix(CERTIFICATE)).collect();
    if class == "host key" && !theirs.is_empty() && plain.len() == theirs.len() {
        return format!(
            "host key: the server offers certificates alone ({}), and this agent takes plain host keys; have its sshd_config \
             offer them as well: HostKeyAlgorithms {},{}",
            theirs.join(","),
            theirs.join(","),
            plain.join(",")
        );
    }
    let theirs = if theirs.is_empty() { "nothing".to_owned() } else { theirs.join(",") };
    format!("{class}: the server offers {theirs}; this agent allows {} ({key}); none is in both", ours.join(","))
}

/// The agreed algorithm: the first of ours that the server has.
fn first<'a>(ours: &'a [String], theirs: &[String]) -> Option<&'a String> {
    ours.iter().find(|name| theirs.contains(name))
}

/// The message for an RSA key whose signatures the server does not take.
pub fn no_signature() -> String {
    format!("signature: this agent signs with an RSA key as {}, and the server takes neither", SIGNATURES.join(","))
}

/// All host keys, those of the known types first.
pub fn host_keys_first(known: &[String]) -> Vec<String> {
    let mut all = host_keys_of(known);
    let rest: Vec<String> = owned(HOST_KEYS).into_iter().filter(|name| !all.contains(name)).collect();
    all.extend(rest);
    all
}

/// The algorithms for keys of these types alone.
pub fn host_keys_of(known: &[String]) -> Vec<String> {
    let shows = |kind: &str, name: &str| if kind == "ssh-rsa" { name.starts_with("rsa-") } else { name == kind };
    known
        .iter()
        .flat_map(|kind| HOST_KEYS.iter().filter(|name| shows(kind, name)))
        .map(|&name| name.to_owned())
        .collect()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// All ciphers and key exchanges of the linked libssh2, for `validate`.
pub fn supported() -> (Vec<&'static str>, Vec<&'static str>) {
    let Ok(session) = ssh2::Session::new() else { return (Vec::new(), Vec::new()) };
    let list = |kind| session.supported_algs(kind).unwrap_or_default();
    let mut exchanges = list(MethodType::Kex);
    exchanges.retain(|name| !NO_EXCHANGES.contains(name));
    (list(MethodType::CryptCs), exchanges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_asked_for_first_and_the_rest_is_still_asked_for() {
        let order = |known: &[&str]| host_keys_first(&owned(known)).join(" ");
        let (curves, rsa) =
            ("ecdsa-sha2-nistp256 ecdsa-sha2-nistp384 ecdsa-sha2-nistp521", "rsa-sha2-512 rsa-sha2-256");
        assert_eq!(order(&[]), format!("ssh-ed25519 {curves} {rsa}"));
        assert_eq!(order(&["ssh-rsa"]), format!("{rsa} ssh-ed25519 {curves}"));
        assert_eq!(order(&["unknown", "ssh-dss"]), HOST_KEYS.join(" "));
        assert!(order(&["ecdsa-sha2-nistp384", "ssh-ed25519"]).starts_with("ecdsa-sha2-nistp384 ssh-ed25519 ecdsa"));
        assert_eq!(host_keys_of(&owned(&["ssh-rsa", "ssh-dss"])).join(" "), rsa);
    }

    #[test]
    fn each_list_is_known_to_the_library_and_holds_nothing_weak() {
        let session = ssh2::Session::new().expect("a session");
        for (kind, list) in [
            (MethodType::Kex, KEX),
            (MethodType::HostKey, HOST_KEYS),
            (MethodType::CryptCs, CIPHERS),
            (MethodType::MacCs, MACS),
            (MethodType::CompCs, COMPRESSION),
        ] {
            let supported = session.supported_algs(kind).expect("a list");
            // ML-KEM came with OpenSSL 3.5; the host's may be older.
            let may_lack = |name: &str| name.starts_with("mlkem") && !cfg!(feature = "vendored-openssl");
            for name in list {
                assert!(supported.contains(name) || may_lack(name), "{name} is not in {supported:?}");
            }
        }
        for name in [KEX, HOST_KEYS, CIPHERS, MACS, COMPRESSION, SIGNATURES].concat() {
            for weak in
                ["sha1", "md5", "cbc", "3des", "arcfour", "dss", "group1-", "ripemd", "cert", "zlib", "ext-info"]
            {
                assert!(!name.contains(weak) && name != "ssh-rsa", "{name}");
            }
        }
        assert!(supported().1.iter().all(|name| !name.contains("ext-info") && !name.contains("strict")));
    }

    #[test]
    fn the_class_in_which_nothing_is_in_common_is_told() {
        let all = |names: &[&str]| owned(names);
        let both = |name: &str| [all(&[name]), all(&[name])];
        let good = Offer {
            kex: all(&["other", "curve25519-sha256"]),
            host_keys: all(&["ssh-ed25519"]),
            ciphers: both("aes256-ctr"),
            macs: both("hmac-sha2-256"),
            compression: both("none"),
        };
        let settings = crate::config::defaults().ssh;
        let ours = Algorithms::new(&settings, None, host_keys_first(&[]));
        assert_eq!(ours.compare(&good), None);
        let sha1 = all(&["hmac-sha1"]);
        for (offer, words) in [
            (Offer { kex: all(&["k"]), ..good.clone() }, "key exchange: the server offers k; this agent allows mlkem"),
            (
                Offer { host_keys: all(&["ssh-rsa"]), ..good.clone() },
                "host key: the server offers ssh-rsa; this agent allows ssh-e",
            ),
            (
                Offer { ciphers: [all(&["x"]), all(&["aes256-ctr"])], ..good.clone() },
                "cipher (client to server): the server offers x;",
            ),
            (
                Offer { ciphers: [all(&["aes256-ctr"]), vec![]], ..good.clone() },
                "cipher (server to client): the server offers nothing;",
            ),
            (
                Offer { macs: [sha1.clone(), all(&["hmac-sha2-256"])], ..good.clone() },
                "MAC (client to server): the server offers hmac-sha1;",
            ),
            (
                Offer { macs: [all(&["hmac-sha2-256"]), sha1.clone()], ..good.clone() },
                "MAC (server to client): the server offers hmac-sha1;",
            ),
            (
                Offer { compression: [all(&["zlib"]), all(&["none"])], ..good.clone() },
                "compression (client to server): the server",
            ),
            (
                Offer { compression: [all(&["none"]), all(&["zlib"])], ..good.clone() },
                "compression (server to client): the server",
            ),
            (
                Offer { host_keys: all(&["ssh-ed25519-cert-v01@openssh.com"]), ..good.clone() },
                "HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com,ssh-ed25519",
            ),
        ] {
            let said = ours.compare(&offer).expect(words);
            assert!(said.contains(words), "{said}");
        }
        // A row of `ssh.hosts` replaces the lists that it has, and is named.
        let mut config = crate::config::defaults();
        let table = "[{host: old.example, algorithms: {ciphers: [aes128-ctr]}}]";
        crate::config::set(&mut config, "ssh.hosts", table).expect("a table");
        let row = config.ssh.hosts.of("old.example").map(AsRef::as_ref);
        let said = Algorithms::new(&settings, row, host_keys_first(&[])).compare(&good).expect("another cipher");
        let want = "this agent allows aes128-ctr (algorithms.ciphers of old.example in ssh.hosts)";
        assert!(said.contains(want), "{said}");
        // An authenticated cipher needs no MAC.
        let sealed = Offer { ciphers: both("aes128-gcm@openssh.com"), macs: both("hmac-sha1"), ..good };
        assert_eq!(ours.compare(&sealed), None);
    }
}
