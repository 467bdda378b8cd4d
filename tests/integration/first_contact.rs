//! `exec --image` with images that nobody made for the agent: another user, no workspace, no init, an entry point of their own;
//! and the README's commands, which exist as they are written.

use std::path::Path;

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
        ("bash", &missing, &["pull image", &missing, "manifest unknown"], "--image debian:stable-slim"),
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

/// The commands in the page's blocks of code, without prompt and remark.
fn commands(page: &str) -> Vec<String> {
    let blocks = page
        .split("\n```")
        .skip(1)
        .step_by(2)
        .filter(|block| block.starts_with("sh\n") || block.starts_with("console\n"));
    let lines = blocks.flat_map(|block| {
        let session = block.starts_with("console");
        block.lines().skip(1).filter_map(move |line| if session { line.strip_prefix("$ ") } else { Some(line) })
    });
    let parts = lines.flat_map(|line| line.split(" #").next().unwrap_or_default().split(['|', ';']));
    parts.map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// What is wrong with a command of ours, if it is one.
fn fault(command: &str) -> Option<String> {
    let mut words = command.split_whitespace();
    let (program, rest) = (words.next()?, words.collect::<Vec<_>>());
    let flags = rest.iter().filter(|word| word.starts_with('-') && word.len() > 1);
    let flags = flags.map(|word| word.split('=').next().unwrap_or_default());
    let known = if let Some(script) = program.strip_prefix("scripts/") {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script)).unwrap_or_default()
    } else if program == "cronium-agent" {
        let help = run(&[rest.first()?, "--help"], &[], "");
        if help.status.success() { text(&help.stdout) } else { String::new() }
    } else {
        return None;
    };
    let missing: Vec<&str> = flags.filter(|flag| !known.contains(flag)).collect();
    (known.is_empty() || !missing.is_empty()).then(|| format!("{command}: {missing:?}"))
}

#[test]
fn the_readmes_commands_exist_and_the_first_is_one_file_and_docker() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let commands = commands(&page);
    let faults: Vec<String> = commands.iter().filter_map(|command| fault(command)).collect();
    assert_eq!(faults, Vec::<String>::new());
    let first = commands.iter().find(|line| line.starts_with("cronium-agent exec ")).expect("an exec");
    assert!(first.starts_with("cronium-agent exec --image "), "{first}");
    let at = |words: &str| page.find(words).unwrap_or_else(|| panic!("README.md lacks {words}"));
    assert!(
        at("cronium-agent exec --image ") < at("\nscripts/demo.sh "),
        "a newcomer without a compiler reads on first"
    );
    for bad in ["cronium-agent nothing", "cronium-agent exec --no-such x", "scripts/gone.sh", "scripts/demo.sh --gone"]
    {
        assert!(fault(bad).is_some(), "blind to {bad}");
    }
}
