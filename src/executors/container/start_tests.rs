//! The last step of the program: flags, versions, modules, and interpreters that cannot be started.

use super::*;
use crate::os::scratch::Scratch;

/// A folder with interpreters that cannot be started, to be first on PATH.
fn broken(name: &str, content: &str) -> Scratch {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Scratch::new();
    let file = folder.join(name);
    std::fs::write(&file, content).expect("write");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("mode");
    folder
}

#[test]
fn a_program_that_cannot_become_the_interpreter_says_so_and_gives_no_exit_code_of_the_script() {
    for (language, name) in [(Language::Bash, "bash"), (Language::Python, "python3"), (Language::Node, "node")] {
        for (content, words) in
            [("#!/nowhere/interpreter\n", "cannot start"), ("", "is no program"), ("exit 0\n", "is no program")]
        {
            let folder = broken(name, content);
            let path = format!("{}:/usr/bin:/bin", folder.display());
            for shell in shells() {
                for variables in [&[][..], &[("my.key", "x")]] {
                    let output = run_in(&shell.1, &script(language, "x"), variables, None, &[("PATH", &path)]);
                    assert_eq!(output.status.code(), Some(125), "{} {language:?} {content:?} {output:?}", shell.0);
                    let why = complaint(NONCE, &output.stderr).expect("a complaint");
                    assert!(why.contains(words) && why.contains(name), "{why}");
                }
            }
        }
    }
}

#[test]
fn an_environment_that_the_kernel_does_not_take_is_a_setup_failure() {
    let big = "x".repeat(100_000);
    let variables: Vec<(String, String)> = (0..9).map(|n| (format!("A{n}"), big.clone())).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let odd: Vec<(&str, &str)> = variables.iter().copied().chain([("my.key", "x")]).collect();
    for shell in shells() {
        for language in [Language::Bash, Language::Python] {
            for variables in [&variables, &odd] {
                // The kernel gives arguments and environment a quarter of the stack's limit.
                let mut limited = vec!["/bin/bash".to_owned(), "-c".to_owned()];
                limited.extend(["ulimit -s 1024; exec \"$@\"".to_owned(), "-".to_owned()]);
                limited.extend(shell.1.iter().cloned());
                let output = run_in(&limited, &script(language, "x"), variables, None, &[]);
                assert_eq!(
                    output.status.code(),
                    Some(125),
                    "{} {language:?} {:?}",
                    shell.0,
                    String::from_utf8_lossy(&output.stderr)
                );
                let why = complaint(NONCE, &output.stderr).expect("a complaint");
                // Bash has lost the kernel's reason by then.
                let reason = shell.0 == "bash" || why.contains("rgument list too long");
                assert!(why.contains("cannot start") && reason, "{why}");
            }
        }
    }
}

#[test]
fn flags_of_the_first_line_are_honoured() {
    for shell in shells() {
        for (language, text, want, code) in [
            (Language::Bash, "#!/bin/bash -e\nfalse\necho on", "", 1),
            (Language::Bash, "#!/bin/bash -euo pipefail\r\ntrue\n", "", 0),
            (Language::Bash, "#!/bin/bash -euo pipefail\nfalse | true\necho on", "", 1),
            (Language::Bash, "#!/bin/sh -u\necho \"$nothing\"\necho on", "", 1),
            (Language::Bash, "#!/usr/bin/env bash\nfalse\necho on", "on\n", 0),
            (Language::Bash, "\u{feff}#!/bin/bash -e\nfalse\necho on", "", 1),
            (Language::Bash, "\u{feff}echo on", "on\n", 0),
            (
                Language::Python,
                "#!/usr/bin/env -S python3 -Werror -O\nimport sys,warnings\nprint(sys.flags.optimize, flush=True)\nwarnings.warn('x')",
                "1\n",
                1,
            ),
            (Language::Python, "#!/usr/bin/env -S A='b c' python3\r\nimport os\nprint(os.environ['A'])", "b c\n", 0),
            (Language::Python, "\u{feff}print(1)", "1\n", 0),
            (Language::Node, "#!/usr/bin/node --stack-trace-limit=1\nconsole.log(Error.stackTraceLimit)", "1\n", 0),
            (Language::Node, "\u{feff}console.log(1)", "1\n", 0),
            (Language::Node, "#!/usr/bin/env node\nimport os from 'os'\nconsole.log(typeof os)", "object\n", 0),
            (Language::Python, "#!/bin/bash -e\nprint(1)", "1\n", 0),
        ] {
            for variables in [&[][..], &[("my.key", "x")]] {
                let output = run_in(&shell.1, &script(language, text), variables, None, &[]);
                let shown = String::from_utf8_lossy(&output.stdout);
                assert_eq!((&*shown, output.status.code()), (want, Some(code)), "{} {text:?} {output:?}", shell.0);
                stderr(&output);
            }
        }
    }
}

#[test]
fn the_first_line_does_not_hide_what_the_agent_says() {
    let text = "#!/usr/bin/env -S CRONIUM_JOB_ID=forged A=theirs python3\nimport os\nprint(os.environ['CRONIUM_JOB_ID'], os.environ['A'])";
    for variables in [&[("CRONIUM_JOB_ID", "job_1"), ("A", "b")][..], &[("CRONIUM_JOB_ID", "job_1"), ("my.key", "x")]] {
        assert_eq!(stdout(&run(&script(Language::Python, text), variables, None)), "job_1 theirs\n");
    }
}

#[test]
fn a_version_of_the_interpreter_is_used_where_it_is_there_and_missed_aloud() {
    let variables: [&[(&str, &str)]; 2] = [&[], &[("my.key", "x")]];
    for variables in variables {
        let text = script(Language::Python, "#!/usr/bin/env python3.11\nimport sys\nprint(sys.executable)");
        let output = run(&text, variables, None);
        assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("/usr/bin/python3.11\n", ""));
        let text = script(Language::Python, "#!/usr/bin/python3.99 -u\nprint(1)");
        let output = run(&text, variables, None);
        assert_eq!(stdout(&output), "1\n");
        assert!(stderr(&output).contains("asks for python3.99, which is not here"), "{output:?}");
    }
}

#[test]
fn modules_run_as_modules_and_everything_else_as_commonjs() {
    let kind = "console.log(typeof require, typeof __filename, this === undefined)";
    for (text, module) in [
        ("import fs from 'fs'; KIND", true),
        ("import 'fs'\nKIND", true),
        ("export const a = 1; KIND", true),
        ("KIND\nexport {}", true),
        ("const a = await 1; KIND", true),
        ("for await (const x of []) {}\nKIND", true),
        ("if (1) { await null }\nKIND", true),
        ("console.log(import.meta.url.length > 0); KIND", true),
        ("import { createRequire as c } from 'module'; const require = 'mine'; KIND", true),
        ("const fs = require('fs'); KIND", false),
        ("// import x from 'y'\nKIND", false),
        ("/* \nexport default 1\n*/ KIND", false),
        ("const s = `\nimport x from 'y'\n${'await'}`; KIND", false),
        ("const s = 'await x; export'; const r = /import x/; KIND", false),
        ("import('fs').then(() => { KIND })", false),
        ("(async () => { await 1; KIND })()", false),
        ("const a = { import: 1, export: 2, await: 3 }; a.import; KIND", false),
        ("module.exports = 1; const await_ = 1; KIND", false),
        ("KIND", false),
    ] {
        let text = text.replace("KIND", kind);
        for variables in [&[][..], &[("my.key", "x")]] {
            let output = run(&script(Language::Node, &text), variables, None);
            let shown = stdout(&output);
            let want = if module { "undefined undefined true" } else { "function string " };
            let want = if text.contains("'mine'") { "string undefined true" } else { want };
            assert!(shown.lines().any(|line| line.starts_with(want)), "{text} {output:?}");
        }
    }
    // A text that is wrong as both is reported as CommonJS.
    let output = run(&script(Language::Node, "function f() { await 1 }\nf()"), &[], None);
    assert!(
        stderr(&output).contains("await is only valid in async functions") && stderr(&output).contains("script.js:1"),
        "{output:?}"
    );
    let output = run(&script(Language::Node, "import x from 'fs'\n\nthrow new Error('boom')"), &[], None);
    assert!(stderr(&output).contains("script.mjs:3"), "{output:?}");
}

#[test]
fn nodes_helper_leaves_no_trace_in_the_script() {
    let text = "const {Worker, fork} = {...require('worker_threads'), ...require('child_process')};\n\
        if (process.send) { process.send(process.env['my.key']); return }\n\
        console.log(require.main === module, process.argv.length, process.argv[1] === __filename, process.execArgv.length);\n\
        fork(__filename).on('message', m => { console.log('fork', m);\n\
        new Worker(\"require('worker_threads').parentPort.postMessage(process.env['my.key'])\", {eval: true})\n\
        .on('message', m => console.log('worker', m)) });";
    let output = run(&script(Language::Node, text), &[("my.key", "odd")], None);
    assert_eq!(stdout(&output), "true 2 true 0\nfork odd\nworker odd\n", "{output:?}");
}

#[test]
fn temporary_files_have_a_folder_in_which_programs_run() {
    let text = script(Language::Bash, "d=$(mktemp -d); echo \"${d%/*}\"; ls; stat -c %a \"$TMPDIR\"");
    let shown = stdout(&run(&text, &[], None));
    assert!(shown.lines().next().is_some_and(|line| line.ends_with("/.tmp")), "{shown}");
    assert!(shown.ends_with("script.sh\n700\n"), "{shown}");
    let theirs = run_in(&shells()[0].1, &script(Language::Bash, "echo $TMPDIR"), &[], None, &[("TMPDIR", "/var/tmp")]);
    assert_eq!(stdout(&theirs), "/var/tmp\n");
    assert_eq!(stdout(&run(&script(Language::Bash, "echo $TMPDIR"), &[("TMPDIR", "/x")], None)), "/x\n");
}
