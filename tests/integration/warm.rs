//! Containers that are started before their job is known: what a script sees in one, what becomes of one that cannot be used,
//! and of those whose agent is killed.

use std::time::Duration;

use cronium_dev_backend::{Action, DevBackend, Fault, JobRow};
use serde_json::{Value, json};

use crate::engine_proxy::{Break, Proxy};
use crate::engine_restart::Engine;
use crate::harness::{
    Agent, LONG, PROVING, Warm, alone, binary, deployed, docker, eventually, finish, finished, in_warm, job, record,
    report, shared, stderr, stdout, unique, with_socket,
};
use crate::{backend, control, helpers, jobs, jobs_start, limits, receipts, restart, security};

const ONE: Warm = &[("container.warm.bash", "1")];
const EACH: Warm = &[("container.warm.bash", "1"), ("container.warm.python", "1"), ("container.warm.nodejs", "1")];

/// How the job came to its container, as its record says.
fn way(backend: &DevBackend, row: &JobRow) -> String {
    record(backend, row)["executionMetadata"]["warm"].as_str().unwrap_or("not said").to_owned()
}

fn with_resources(script: &str, resources: Value) -> Value {
    let mut job = job("BASH", script);
    job["execution"]["resources"] = resources;
    job
}

/// The one container that waits.
fn waiting(agent: &Agent) -> String {
    agent.wait_warm();
    let all = agent.containers_by_name();
    all.into_iter().find(|(_, name)| name.starts_with("cronium-warm-")).expect("one waits").0
}

#[test]
fn a_script_sees_the_same_as_in_a_cold_one() {
    in_warm(EACH, jobs::three_languages_are_claimed_run_streamed_and_reported_once);
    in_warm(EACH, jobs::tracebacks_name_a_real_file_and_the_right_line);
    in_warm(EACH, jobs::environment_working_directory_and_large_scripts_arrive);
    in_warm(EACH, jobs::nanoseconds_and_seconds_are_both_timeouts_and_output_is_kept);
    in_warm(EACH, jobs::the_record_has_timings_usage_and_evidence);
    in_warm(EACH, jobs_start::the_first_line_counts_and_a_foreign_one_is_told);
    in_warm(EACH, jobs_start::who_would_be_lost_gets_a_hint);
    in_warm(EACH, jobs_start::local_time_is_that_of_tz);
}

#[test]
fn variables_and_images_that_are_in_the_way_do_what_they_do_in_a_cold_one() {
    in_warm(EACH, jobs_start::variables_that_shells_keep_arrive_or_the_job_is_refused_by_name);
    in_warm(EACH, jobs_start::variables_and_functions_of_an_image_change_nothing);
    in_warm(EACH, jobs_start::a_shell_that_warns_before_the_program_hides_no_start);
    in_warm(EACH, jobs_start::an_interpreter_that_cannot_be_started_is_no_exit_code_of_the_script);
}

#[test]
fn limits_hold_as_in_a_cold_one() {
    in_warm(EACH, limits::more_memory_than_the_limit_is_killed_with_evidence_and_tmpfs_counts);
    in_warm(EACH, limits::a_fork_bomb_meets_its_limit_and_harms_nothing);
    in_warm(EACH, limits::shared_memory_is_full_before_the_memory_is);
    in_warm(EACH, limits::wishes_above_the_limits_are_cut_and_the_job_is_told);
    in_warm(EACH, backend::a_cancel_ends_the_job_in_each_of_the_three_ways);
}

#[test]
fn walls_hold_as_around_a_cold_one() {
    in_warm(EACH, security::from_the_inside_every_lock_holds);
    in_warm(EACH, security::from_the_outside_the_configuration_is_locked_and_holds_no_secret);
    in_warm(EACH, security::jobs_cannot_reach_each_other);
    in_warm(EACH, security::without_a_network_there_is_only_the_loopback);
    in_warm(EACH, security::a_seccomp_profile_from_a_file_binds);
    in_warm(EACH, security::zombies_are_reaped_and_term_reaches_the_scripts_children);
    in_warm(EACH, security::nothing_of_a_job_is_left_in_the_engine);
}

#[test]
fn receipts_say_the_same_as_of_a_cold_one() {
    in_warm(ONE, receipts::a_real_jobs_receipt_is_checked_offline_and_each_change_is_found);
    in_warm(ONE, receipts::a_job_that_outlives_its_agent_has_the_receipt_of_both);
}

#[test]
fn helpers_reach_the_agent_as_from_a_cold_one() {
    in_warm(EACH, helpers::scripts_like_the_apps_own_run_unchanged);
    in_warm(EACH, helpers::several_processes_of_one_script_call_at_once);
    in_warm(EACH, helpers::the_sidecars_http_is_spoken_and_reaches_the_own_execution_alone);
    in_warm(EACH, helpers::nothing_of_a_jobs_helpers_is_left_and_the_engine_knows_no_token);
    in_warm(EACH, helpers::after_a_kill_the_next_agent_answers_and_keeps_what_was_set);
}

#[test]
fn after_a_kill_the_next_agent_goes_on_as_with_a_cold_one() {
    in_warm(ONE, restart::a_script_goes_on_when_its_agent_is_killed_and_every_line_comes);
    in_warm(ONE, restart::a_script_that_ended_while_no_agent_lived_is_reported_with_all_of_its_output);
    in_warm(ONE, restart::time_without_an_agent_counts_for_the_deadline);
    in_warm(ONE, restart::an_end_while_no_agent_lived_is_told_by_when_it_came);
}

#[test]
fn agents_killed_at_fifty_moments_report_each_job_once_and_leave_nothing() {
    let _machine = shared();
    std::thread::scope(|lanes| {
        for lane in 0..5 {
            lanes.spawn(move || in_warm(ONE, || restart::killed_ten_times(lane)));
        }
    });
}

#[test]
fn none_is_used_twice_and_the_ways_of_all_jobs_are_told() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, ONE);
    let script =
        "hostname; ls -A /workspace /tmp; ps | grep -c sleep; touch /tmp/left left; sleep 300 >/dev/null 2>&1 &";
    let mut hosts = Vec::new();
    for _ in 0..2 {
        agent.wait_warm();
        let row = finish(&backend, job("BASH", script));
        assert_eq!(way(&backend, &row), "warm");
        let (host, rest) = stdout(&row).split_once('\n').expect("a line");
        assert!(!rest.contains("left") && !hosts.contains(&host.to_owned()), "{}", stdout(&row));
        hosts.push(host.to_owned());
    }
    // No container waits for this language.
    assert_eq!(way(&backend, &finish(&backend, job("PYTHON", "print(1)"))), "not said");
    agent.wait_warm();
    let id = backend.enqueue(job("BASH", "echo begun; sleep 60")).expect("queued");
    eventually("it runs", || !backend.lines(&id).is_empty());
    let status = control::status(&agent);
    let row = control::row(&status, &id).expect("the job");
    assert_eq!((&row["warm"], &status["warm"]["wanted"]), (&json!(true), &json!(1)));
    assert!(row["place"].as_str().is_some_and(|place| place.starts_with(&format!("cronium-exec-{id}"))), "{row}");
    eventually("the engine has the name", || agent.container_of(&id).is_some());
    backend.cancel(&id, cronium_dev_backend::Via::WebSocket);
    finished(&backend, &id);
    assert_eq!(agent.taken(), 3);
    agent.stop();
}

#[test]
fn limits_that_an_update_changes_are_the_jobs_and_others_make_it_cold() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, ONE);
    agent.wait_warm();
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; echo";
    let row = finish(
        &backend,
        with_resources(script, json!({ "memoryLimit": 1_u64 << 30, "cpuLimit": 1.0, "pidsLimit": 7 })),
    );
    assert_eq!((way(&backend, &row).as_str(), stdout(&row).trim()), ("warm", "1073741824"), "{}", stderr(&row));
    agent.wait_warm();
    let row = finish(&backend, with_resources("df /workspace | tail -1", json!({ "diskLimit": 64 << 20 })));
    assert_eq!((way(&backend, &row).as_str(), row.exit_code), ("cold_other_limits", Some(0)));
    agent.stop();
}

#[test]
fn an_engine_that_refuses_an_update_makes_the_job_cold() {
    let _machine = shared();
    let (proxy, backend) = (Proxy::start(), deployed());
    let endpoint = proxy.endpoint();
    let agent = Agent::start(&backend, &[ONE[0], ("container.docker.endpoint", endpoint.as_str())]);
    agent.wait_warm();
    let refusal = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 26\r\n\r\n{\"message\":\"not with me\"}  ";
    proxy.break_calls("POST", "/update", 1, Break::Answer(refusal.to_vec()));
    let row = finish(&backend, with_resources("echo fine", json!({ "pidsLimit": 7 })));
    assert_eq!((way(&backend, &row).as_str(), stdout(&row)), ("cold_update_refused", "fine\n"));
    agent.wait_warm();
    assert_eq!(way(&backend, &finish(&backend, job("BASH", "true"))), "warm");
    agent.stop();
}

#[test]
fn an_image_that_is_another_by_now_or_gone_is_not_used() {
    let _machine = shared();
    let backend = deployed();
    let image = format!("cronium/test:{}", unique("warm"));
    docker(&["tag", "cronium/runner:bash-alpine", &image]);
    let settings = [ONE[0], ("container.images.bash", image.as_str()), ("container.images.pullPolicy", "never")];
    let agent = Agent::start(&backend, &settings);
    agent.wait_warm();
    docker(&["tag", "cronium/runner:python-alpine", &image]);
    let row = finish(&backend, job("BASH", "command -v python3"));
    // It may have been seen before the job came.
    assert!(way(&backend, &row).starts_with("cold") && stdout(&row).contains("python3"), "{}", way(&backend, &row));
    agent.wait_warm();
    docker(&["rmi", &image]);
    let row = finish(&backend, job("BASH", "true"));
    assert!(stderr(&row).contains("pullPolicy is never"), "{}", stderr(&row));
    eventually("status says why", || {
        control::status(&agent)["warm"]["whyFewer"].as_str().is_some_and(|why| why.contains("no container can be made"))
    });
    docker(&["tag", "cronium/runner:bash-alpine", &image]);
    assert_eq!(finish(&backend, job("BASH", "true")).exit_code, Some(0));
    agent.stop();
    docker(&["rmi", &image]);
}

#[test]
fn one_that_ended_while_it_waited_costs_its_job_nothing() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, ONE);
    docker(&["kill", &waiting(&agent)]);
    let row = finish(&backend, job("BASH", "echo fine"));
    assert_eq!((stdout(&row), row.exit_code, row.terminal_reports()), ("fine\n", Some(0), 1));
    assert!(way(&backend, &row).starts_with("cold"), "{}", way(&backend, &row));
    agent.stop();
}

#[test]
fn one_that_is_killed_after_it_was_taken_gives_its_job_back_to_run_once() {
    let _machine = shared();
    let backend = with_socket();
    let agent = Agent::start(&backend, ONE);
    agent.wait_warm();
    let slow = Fault {
        path: Some("/acknowledge".into()),
        count: Some(1),
        action: Action::Delay { millis: 2000 },
        ..Fault::default()
    };
    backend.set_fault(slow);
    let id = backend.enqueue(job("BASH", "echo \"run $(cat /proc/sys/kernel/random/uuid)\"")).expect("queued");
    let mut taken = None;
    eventually("a container is the job's", || {
        taken = agent.container_of(&id);
        taken.is_some()
    });
    docker(&["kill", &taken.expect("a container")]);
    let row = finished(&backend, &id);
    assert_eq!((row.exit_code, row.terminal_reports(), stdout(&row).lines().count()), (Some(0), 1, 1));
    agent.stop();
}

#[test]
fn with_too_little_memory_none_waits_and_status_says_so() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[ONE[0], ("container.warm.minFreeMemory", "1TB")]);
    agent.wait_ready();
    let row = finish(&backend, job("BASH", "true"));
    assert_eq!((way(&backend, &row).as_str(), row.exit_code), ("cold_none_waits", Some(0)));
    let status = control::status(&agent);
    assert_eq!((&status["warm"]["waiting"], &status["warm"]["wanted"]), (&json!(0), &json!(1)));
    let why = status["warm"]["whyFewer"].as_str().expect("a reason").to_owned();
    assert!(why.contains("container.warm.minFreeMemory is 1"), "{why}");
    assert_eq!(agent.metric("cronium_warm_containers{language=\"bash\"}"), Some(0.0));
    agent.stop();
}

#[test]
fn what_waits_goes_with_its_agent_and_after_a_kill_with_the_next_one() {
    let _machine = shared();
    let backend = deployed();
    let mut agent = Agent::start(&backend, ONE);
    let left = waiting(&agent);
    agent.signal("KILL");
    agent.wait(LONG);
    eventually("it has ended with its stdin", || {
        docker(&["ps", "-q", "--no-trunc", "--filter", &format!("id={left}")]).is_empty()
    });
    let agent = agent.again(&backend, &[]);
    agent.wait_ready();
    eventually("it is removed", || agent.containers_by_name().is_empty());
    let agent = agent.again(&backend, ONE);
    agent.wait_warm();
    // `stop` looks that nothing is left.
    agent.stop();
}

#[test]
fn age_and_a_changed_configuration_replace_what_waits() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[ONE[0], ("container.warm.maxIdle", "2s")]);
    let first = waiting(&agent);
    eventually("another waits", || {
        let all = agent.containers_by_name();
        all.iter().any(|(id, name)| *id != first && name.starts_with("cronium-warm-"))
    });
    assert!(agent.metric("cronium_warm_discarded_total{reason=\"age\"}") > Some(0.0));
    agent.stop();
}

#[test]
fn a_job_whose_record_is_lost_is_found_by_its_containers_name() {
    let _machine = shared();
    let backend = with_socket();
    let mut agent = Agent::start(&backend, ONE);
    agent.wait_warm();
    let id = backend.enqueue(job("BASH", restart::COUNT)).expect("queued");
    eventually("some lines", || backend.lines(&id).len() > 5);
    eventually("the container has the job's name", || agent.container_of(&id).is_some());
    agent.signal("KILL");
    agent.wait(LONG);
    std::fs::remove_file(agent.state_dir().join("jobs").join(format!("{id}.job"))).expect("the record");
    let agent = agent.again(&backend, &[]);
    let row = finished(&backend, &id);
    assert_eq!((row.exit_code, row.terminal_reports()), (Some(7), 1), "{}", stderr(&row));
    assert!(stdout(&row).contains("line 60\n"));
    agent.stop();
}

/// The limit runs from the job's start, and what was before it is none of its usage.
#[test]
fn time_and_usage_count_from_the_jobs_start() {
    let _machine = shared();
    let backend = deployed();
    let agent = Agent::start(&backend, &[ONE[0], ("jobs.stopGrace", "1s")]);
    agent.wait_warm();
    std::thread::sleep(Duration::from_secs(4));
    let mut long = job("BASH", "sleep 2; echo over; sleep 60");
    long["execution"]["timeout"] = json!(3);
    let row = finish(&backend, long);
    assert_eq!((report(&row)["status"].as_str(), stdout(&row)), (Some("timeout"), "over\n"), "{}", stderr(&row));
    assert_eq!(way(&backend, &row), "warm");
    agent.stop();
}

#[test]
fn an_engine_that_is_restarted_under_the_pool_costs_its_jobs_nothing() {
    let _machine = shared();
    let backend = deployed();
    let mut engine = Engine::start_after(false, "", &["cronium/runner:bash-alpine"]);
    let host = engine.host();
    let settings = [ONE[0], ("container.docker.endpoint", host.as_str()), ("container.network.mode", "none")];
    let agent = Agent::start(&backend, &settings);
    agent.wait_warm();
    engine.down("TERM");
    engine.up();
    // As soon as may be after the start: what waited is gone or stopped.
    let row = finish(&backend, job("BASH", "echo done"));
    assert_eq!((stdout(&row), row.exit_code, row.terminal_reports()), ("done\n", Some(0), 1), "{}", stderr(&row));
    agent.wait_warm();
    assert_eq!(way(&backend, &finish(&backend, job("BASH", "echo again"))), "warm");
    agent.stop();
    eventually("nothing is left in that engine", || engine.docker(&["ps", "-aq"]).is_empty());
}

#[test]
fn gc_leaves_what_waits_for_an_agent_and_removes_it_when_that_is_gone() {
    let _machine = shared();
    let backend = deployed();
    let mut agent = Agent::start(&backend, ONE);
    let id = waiting(&agent);
    let state = agent.state_dir();
    let gc = |agent: &Agent| {
        let mut command = binary();
        command.args(["gc", "--grace", "0s", "--set"]).arg(format!("orchestrator.id={}", agent.id));
        let output = command.arg("--set").arg(format!("state.dir={}", state.display())).output().expect("gc");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = gc(&agent);
    assert_eq!(code, Some(0), "{said}");
    assert!(agent.containers_by_name().iter().any(|(other, _)| *other == id), "{said}");
    agent.signal("KILL");
    agent.wait(LONG);
    let (code, said) = gc(&agent);
    assert!(code == Some(0) && agent.containers_by_name().is_empty(), "{said}");
}

#[test]
fn a_wall_that_does_not_hold_throws_away_what_waits_behind_it() {
    let _machine = alone();
    let backend = deployed();
    let open = ("container.security.seccompProfile", "engine");
    let agent = Agent::start(&backend, &[ONE[0], PROVING, open]);
    let first = waiting(&agent);
    eventually("what waited is gone", || agent.metric("cronium_warm_discarded_total{reason=\"proof\"}") == Some(1.0));
    eventually("another waits", || {
        let all = agent.containers_by_name();
        all.iter().any(|(id, name)| *id != first && name.starts_with("cronium-warm-"))
    });
    agent.stop();
}
