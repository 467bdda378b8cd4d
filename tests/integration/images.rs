//! Pulls from a real registry: with credentials, without, with wrong ones, shared, and when it is down.

use cronium_dev_backend::DevBackend;

use crate::engine_proxy::{Break, Proxy};
use crate::harness::{
    Agent, deployed, docker, finish, finished, job, on_podman, report, shared, stderr, stdout, unique, with_socket,
};
use crate::registry::{PASSWORD, Registry};

#[test]
fn the_python_image_has_requests_and_aiohttp_and_node_is_not_older_than_18() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[]);
    let script = "import asyncio, aiohttp, requests\n\
                  async def main():\n    async with aiohttp.ClientSession(): print('session', requests.Session().verify)\n\
                  asyncio.run(main())\n";
    let row = finish(&backend, job("PYTHON", script));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "session True\n"), "{}", stderr(&row));
    let row = finish(&backend, job("NODEJS", "console.log(process.versions.node.split('.')[0] >= 18)"));
    assert_eq!((row.exit_code, stdout(&row)), (Some(0), "true\n"), "{}", stderr(&row));
    agent.stop();
}

fn agent(backend: &DevBackend, image: &str, more: &[(&str, &str)]) -> Agent {
    let mut settings = vec![("container.images.bash", image)];
    settings.extend_from_slice(more);
    Agent::start(backend, &settings)
}

fn system_lines(backend: &DevBackend, job: &str) -> String {
    let lines = backend.lines(job);
    lines.iter().filter(|line| line.stream == "system").map(|line| format!("{}\n", line.text)).collect()
}

#[test]
fn a_missing_image_is_pulled_once_for_all_who_want_it() {
    let _machine = shared();
    let (backend, registry) = (with_socket(), Registry::start());
    let image = registry.push(&unique("shared"), "one");
    let auth = registry.auth_file(PASSWORD).display().to_string();
    let proxy = Proxy::start();
    // Slow enough that all four jobs ask while the first pull is under way.
    proxy.break_calls("POST", "/images/create", 1, Break::Delay(1500));
    let endpoint = proxy.endpoint();
    let agent = agent(
        &backend,
        &image,
        &[("container.registryAuthFile", &auth), ("container.docker.endpoint", &endpoint), ("logging.level", "trace")],
    );
    let ids: Vec<_> = (0..4).map(|_| backend.enqueue(job("BASH", "echo $WHICH")).expect("queued")).collect();
    for id in &ids {
        assert_eq!(stdout(&finished(&backend, id)), "one\n");
    }
    assert_eq!(proxy.count("POST", "/images/create"), 1, "pulls");
    let said: String = ids.iter().map(|id| system_lines(&backend, id)).collect();
    assert!(said.contains(&format!("pulling image {image}")) && said.contains("pulled image"), "{said}");
    assert!(said.contains("which another job is pulling"), "{said}");
    assert!(!agent.log().contains(PASSWORD), "the password is in the log");
    assert_eq!(agent.metric("cronium_image_pulls_total{result=\"success\"}"), Some(1.0));
    agent.stop();
}

#[test]
fn what_the_registry_refuses_is_told_and_not_asked_again() {
    let _machine = shared();
    let (backend, registry) = (with_socket(), Registry::start());
    let image = registry.push(&unique("private"), "secret");
    let right = registry.auth_file(PASSWORD).display().to_string();
    let wrong = registry.auth_file("wrong").display().to_string();
    let missing = format!("{}:nope", image.rsplit_once(':').expect("a tag").0);
    for (image, auth, words) in [
        (&image, Some(&wrong), "unauthorized"),
        (&image, None, if on_podman() { "authentication required" } else { "no basic auth credentials" }),
        (&missing, Some(&right), "nope"),
    ] {
        let mut more = Vec::new();
        if let Some(auth) = auth {
            more.push(("container.registryAuthFile", auth.as_str()));
        }
        let agent = agent(&backend, image, &more);
        let row = finish(&backend, job("BASH", "true"));
        assert_eq!((report(&row)["status"].as_str(), row.exit_code), (Some("failed"), Some(125)));
        assert!(stderr(&row).contains(words) && stderr(&row).contains(image.as_str()), "{}", stderr(&row));
        assert!(!system_lines(&backend, &row.id).contains("trying again"), "a refusal was asked again");
        agent.stop();
    }
}

#[test]
fn a_registry_that_is_down_is_tried_again() {
    let _machine = shared();
    let (backend, mut registry) = (with_socket(), Registry::start());
    let image = registry.push(&unique("late"), "late");
    let auth = registry.auth_file(PASSWORD).display().to_string();
    registry.end();
    let agent = agent(&backend, &image, &[("container.registryAuthFile", &auth)]);
    let row = finish(&backend, job("BASH", "echo $WHICH"));
    assert!(stderr(&row).contains("connection refused"), "{}", stderr(&row));
    assert_eq!(system_lines(&backend, &row.id).matches("trying again").count(), 2, "three attempts");
    registry.run();
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo $WHICH"))), "late\n");
    agent.stop();
}

#[test]
fn the_pull_policy_is_kept() {
    let _machine = shared();
    let (backend, registry) = (deployed(), Registry::start());
    let name = unique("policy");
    let image = registry.push(&name, "first");
    let auth = registry.auth_file(PASSWORD).display().to_string();
    let never = agent(&backend, &image, &[("container.images.pullPolicy", "never")]);
    let row = finish(&backend, job("BASH", "true"));
    assert!(stderr(&row).contains("pullPolicy is never"), "{}", stderr(&row));
    never.stop();

    let auth = ("container.registryAuthFile", auth.as_str());
    let always = agent(&backend, &image, &[auth, ("container.images.pullPolicy", "always")]);
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo $WHICH"))), "first\n");
    registry.push(&name, "second");
    assert_eq!(stdout(&finish(&backend, job("BASH", "echo $WHICH"))), "second\n");
    always.stop();
    assert!(docker(&["images", "-q", &image]).len() > 5);
}

#[test]
fn an_error_in_the_stream_of_a_pull_is_an_error() {
    let _machine = shared();
    let (backend, proxy) = (deployed(), Proxy::start());
    let image = format!("127.0.0.1:1/{}:1", unique("none"));
    let endpoint = proxy.endpoint();
    let stream = "{\"status\":\"Pulling from x\",\"id\":\"1\"}\n{\"errorDetail\":{\"message\":\"disk on fire\"},\"error\":\"disk on fire\"}\n";
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{stream}", stream.len());
    proxy.break_calls("POST", "/images/create", 3, Break::Answer(answer.into_bytes()));
    let agent = agent(&backend, &image, &[("container.docker.endpoint", &endpoint)]);
    let row = finish(&backend, job("BASH", "true"));
    assert!(stderr(&row).contains("disk on fire"), "{}", stderr(&row));
    agent.stop();
}
