//! `exec --image` with images that nobody made for the agent: another user, no workspace, no init, an entry point of their own.

use crate::cli::{check, run, text};
use crate::harness::{docker, require_engine, shared, unique};
use crate::registry::{PASSWORD, Registry};

/// A runner image with everything undone that the agent's own images have and others lack.
fn foreign(base: &str, more: &str) -> String {
    format!(
        "FROM cronium/runner:{base}\nUSER 0:0\nWORKDIR /\n\
         RUN rmdir /workspace && rm -f /usr/bin/tini* && sed -i /^runner:/d /etc/passwd /etc/group && {more}\n\
         ENV HOME=/root\nUSER nobody\nENTRYPOINT [\"/bin/false\"]\nCMD [\"-x\"]\n"
    )
}

#[test]
fn exec_pulls_any_image_that_has_sh_and_the_language_and_runs_in_it() {
    let _machine = shared();
    require_engine();
    let registry = Registry::start();
    let auth = format!("container.registryAuthFile={}", registry.auth_file(PASSWORD).display());
    for (base, language, script, want) in [
        (
            "bash-alpine",
            "bash",
            "id -u; pwd; echo $HOME; echo x >file && cat file",
            "1000\n/workspace\n/workspace\nx\n",
        ),
        ("python-alpine", "python", "import os\nprint(os.getuid(), os.getcwd())", "1000 /workspace\n"),
        ("node-alpine", "node", "console.log(process.getuid(), process.cwd())", "1000 /workspace\n"),
    ] {
        let image = registry.push_made(&unique(language), &foreign(base, "true"));
        let arguments = ["exec", "--lang", language, "--image", &image, "--set", &auth, "-"];
        let first = run(&arguments, &[], script);
        check(&first, 0, want, "cronium-agent: completed (success)");
        let said = text(&first.stderr);
        assert!(said.contains(&format!("pulling image {image}")) && said.contains("pulled image"), "{said}");
        let second = run(&arguments, &[], script);
        check(&second, 0, want, "completed (success)");
        assert!(!text(&second.stderr).contains("pull"), "what is there is not pulled");
    }
}

#[test]
fn exec_says_what_an_image_lacks_and_what_to_do() {
    let _machine = shared();
    require_engine();
    let registry = Registry::start();
    let auth = format!("container.registryAuthFile={}", registry.auth_file(PASSWORD).display());
    let bash = "cronium/runner:bash-alpine";
    let no_bash = registry.push_made(&unique("nobash"), &foreign("bash-alpine", "rm -f /bin/bash /usr/bin/bash"));
    let empty = registry.push_made(&unique("empty"), "FROM scratch\nCOPY Dockerfile /\n");
    let missing = format!("127.0.0.1:{}/{}:1", registry.port, unique("none"));
    for (language, image, words, example) in [
        ("python", bash, &["has no python3 or python on its PATH (/usr/local/sbin:"][..], "--image python:3-slim"),
        ("node", bash, &["has no node or nodejs on its PATH ("], "--image node:lts-slim"),
        ("bash", &no_bash, &["has no bash on its PATH ("], "--image debian:stable-slim"),
        (
            "bash",
            &empty,
            &["exec /bin/sh failed: No such file", "does it have a /bin/sh?"],
            "--image debian:stable-slim",
        ),
        ("bash", &missing, &["cannot pull image", &missing], "--image debian:stable-slim"),
    ] {
        let output = run(&["exec", "--lang", language, "--image", image, "--set", &auth, "-"], &[], "");
        check(&output, 125, "", "cronium-agent: failed (infrastructure)");
        let said = text(&output.stderr);
        let verdict = said.lines().last().unwrap_or_default();
        assert!(words.iter().all(|word| verdict.contains(word)), "{verdict}");
        assert!(said.contains(example), "{said}");
    }
}

#[test]
fn exec_runs_in_a_plain_debian() {
    let _machine = shared();
    require_engine();
    // With apt and dpkg, root as its user and nothing of the agent's; scripts/boot-image.sh makes it.
    let image = "cronium/test:systemd";
    assert_eq!(
        docker(&["image", "inspect", "--format", "{{.Config.User}}", image]).trim(),
        "",
        "run scripts/boot-image.sh"
    );
    let output = run(&["exec", "--lang", "bash", "--image", image, "-"], &[], "id -u; command -v apt-get");
    check(&output, 0, "1000\n/usr/bin/apt-get\n", "completed (success)");
}
