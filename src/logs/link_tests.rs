//! One connection: its timers at any moment, and how much it reads at once.

use std::net::{TcpListener, TcpStream};

use super::*;
use crate::job::Stream;
use crate::limits::LOG_STATUS_QUEUE;
use crate::logs::dial::{Target, websocket};
use crate::logs::test_server::settings;

const MS: Duration = Duration::from_millis(1);

/// A connection to a server that reads and sends nothing; `act` gets its state.
fn linked<T>(act: impl FnOnce(&Shared, &mut Link<'_>) -> T) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let tcp = TcpStream::connect(address).expect("connected");
    tcp.set_nonblocking(true).expect("non-blocking");
    let _peer = listener.accept().expect("accepted");
    let mut settings = settings(format!("ws://{address}/"));
    (settings.live.buffer_size, settings.live.batch_size) = (10_000, 10_000);
    let target = Target::parse(&settings.url).expect("a URL");
    let shared = Shared::new(settings, &target.shown).expect("a waker");
    let on_event: OnEvent = Box::new(|_| {});
    let socket = websocket(Socket::new(tcp, None), Vec::new());
    let mut link = Link::new(&shared, socket, Dialect::V2, &on_event, 0);
    act(&shared, &mut link)
}

/// A job with `lines` lines of `length` bytes in its buffer.
fn job(shared: &Shared, lines: usize, length: usize) -> Arc<Job> {
    let now = Instant::now();
    let job = Arc::new(Job::new(Id::parse("job_1").expect("an id"), shared.settings.live.buffer_size, now));
    let text = vec![b'x'; length];
    for _ in 0..lines {
        assert!(job.lock().buffer.has_room(length));
        job.lock().buffer.push(Stream::Stdout, &text, SystemTime::now(), now);
    }
    shared.registry().jobs.push(Arc::clone(&job));
    job
}

#[test]
fn a_silent_server_is_given_up_and_not_before() {
    linked(|_, link| {
        let heard = link.last_heard;
        assert_eq!(link.timers(heard).expect("quiet"), PULSE_SLICE);
        assert_eq!(link.timers(heard + LOG_SILENCE - MS).expect("not yet"), MS);
        assert!(matches!(link.timers(heard + LOG_SILENCE), Err(LinkError::Silent)));
    });
}

#[test]
fn a_server_that_acknowledges_nothing_is_given_up_and_not_before() {
    linked(|shared, link| {
        job(shared, 1, 10);
        let idle = link.last_progress + LOG_WRITE_STALL;
        link.timers(idle).expect("nothing is on its way");
        link.fill().expect("encoded");
        link.push().expect("taken by the kernel");
        assert_eq!((link.flights.len(), link.socket.get_ref().waiting()), (1, 0));
        // A quiet live log is not affected.
        link.last_heard = idle + LOG_WRITE_STALL;
        link.last_progress = idle;
        link.last_ping = link.last_heard;
        assert_eq!(link.timers(idle + LOG_WRITE_STALL - MS).expect("not yet"), MS);
        assert!(matches!(link.timers(idle + LOG_WRITE_STALL), Err(LinkError::Stalled)));
        link.acknowledged(1);
        link.timers(link.last_progress + LOG_WRITE_STALL).expect("it was acknowledged");
    });
}

#[test]
fn no_more_is_encoded_than_may_wait_for_the_socket() {
    linked(|shared, link| {
        for _ in 0..12 {
            job(shared, 200, 1000);
        }
        link.fill().expect("encoded");
        let waiting = link.socket.get_ref().waiting();
        // One more message, with the JSON around its lines.
        let most = LOG_OUT_HIGH + LOG_MESSAGE_BYTES * 2;
        assert!((LOG_OUT_HIGH..most).contains(&waiting), "{waiting}");
        assert!(link.flights.iter().all(|flight| flight.lines == LOG_MESSAGE_BYTES / 1000));
        // Status messages are bounded by it too.
        shared.registry().statuses.extend(std::iter::repeat_n(vec![b'x'; 10_000], LOG_STATUS_QUEUE));
        link.fill().expect("nothing to encode");
        assert_eq!((link.socket.get_ref().waiting(), shared.registry().statuses.len()), (waiting, LOG_STATUS_QUEUE));
    });
    linked(|shared, link| {
        shared.registry().statuses.extend(std::iter::repeat_n(vec![b'x'; 10_000], LOG_STATUS_QUEUE));
        link.fill().expect("encoded");
        let waiting = link.socket.get_ref().waiting();
        assert!((LOG_OUT_HIGH..LOG_OUT_HIGH + 20_000).contains(&waiting), "{waiting}");
    });
}

#[test]
fn pauses_grow_further_where_there_is_no_live_log() {
    let absent = [LinkError::Refused(404), LinkError::Refused(426), LinkError::Handshake(String::new())];
    assert!(absent.iter().all(|error| error.is_absent() && !error.is_refusal()));
    assert!(![LinkError::Refused(401), LinkError::Refused(502), LinkError::Silent].iter().any(LinkError::is_absent));
    let pause = |failures| backoff(failures, LOG_BACKOFF_ABSENT, 1.0);
    assert_eq!([pause(0), pause(7), pause(99)], [LOG_BACKOFF_FIRST, LOG_BACKOFF_FIRST * 128, LOG_BACKOFF_ABSENT]);
}

#[test]
fn pauses_grow_to_half_a_minute_and_are_spread() {
    let ms = |failures, unit| backoff(failures, LOG_BACKOFF_MOST, unit).as_millis();
    assert_eq!((ms(0, 1.0), ms(1, 1.0), ms(3, 1.0)), (200, 400, 1600));
    assert_eq!((ms(12, 1.0), ms(u32::MAX, 1.0), ms(12, 0.5), ms(12, 0.0)), (30_000, 30_000, 15_000, 0));
}

#[test]
fn lines_go_at_once_when_quiet_and_in_batches_when_not() {
    let ms = Duration::from_millis;
    let (full, flush) = (50, ms(100));
    for (unsent, quiet, urgent, age, want) in [
        (0, true, true, 500, Due::Never),
        (1, true, false, 0, Due::Now),
        (1, false, false, 0, Due::In(ms(100))),
        (49, false, false, 30, Due::In(ms(70))),
        (50, false, false, 0, Due::Now),
        (1, false, false, 100, Due::Now),
        (1, false, true, 0, Due::Now),
    ] {
        assert_eq!(due(unsent, quiet, urgent, full, ms(age), flush), want, "{unsent} {quiet} {urgent} {age}");
    }
}

#[test]
fn a_servers_message_is_read_with_distrust() {
    let cancel = |id: &str| Heard::Event(ServerEvent::Cancel(Id::parse(id).expect("an id")));
    let no_envelope = || Heard::Unusable("a message that is no JSON envelope");
    let no_batch = || Heard::Unusable("an ack without a batch number");
    let no_id = || Heard::Unusable("a cancel without a job's id");
    for (text, want) in [
        (r#"{"type":"ack","payload":{"batch":7}}"#, Heard::Ack(7)),
        (r#"{"payload":{"x":[[]],"batch":18446744073709551615},"type":"\u0061ck"}"#, Heard::Ack(u64::MAX)),
        (r#"{"type":"ack","payload":{"batch":-1}}"#, no_batch()),
        (r#"{"type":"ack","payload":{"batch":1e999}}"#, no_batch()),
        (r#"{"type":"ack","payload":{"batch":1,"batch":2}}"#, no_batch()),
        (r#"{"type":"ack","payload":[7]}"#, no_batch()),
        (r#"{"type":"ack"}"#, no_batch()),
        (r#"{"type":"cancel","payload":{"jobId":"a"}}"#, cancel("a")),
        (r#"{"type":"cancel","payload":{"jobId":"../a"}}"#, no_id()),
        (r#"{"type":"cancel","payload":{"jobId":7}}"#, no_id()),
        (r#"{"type":"jobs"}"#, Heard::Event(ServerEvent::JobsQueued)),
        (r#"{"type":"jobs","payload":null}"#, Heard::Event(ServerEvent::JobsQueued)),
        (r#"{"type":"later","payload":[]}"#, Heard::Other),
        (r#"{"type":7}"#, no_envelope()),
        (r#"{"type":"jobs","type":"jobs"}"#, no_envelope()),
        (r#"{"type":"jobs""#, no_envelope()),
        ("[]", no_envelope()),
        ("", no_envelope()),
    ] {
        assert_eq!(hear(text.as_bytes()), want, "{text}");
    }
}

#[test]
fn a_message_of_the_largest_length_costs_little() {
    use crate::limits::LOG_SERVER_MESSAGE_BYTES;
    use crate::os::heap_tests::peak;
    for (begin, part, end) in [
        (r#"{"type":"ack","payload":["#, "0,", "0]}"),
        (r#"{"type":"cancel","payload":{"jobId":["#, "{},", "0]}}"),
        (r#"{"type":"cancel","payload":{"jobId":""#, r"\n", "\"}}"),
        (r#"{"type":""#, r"\n", "\"}"),
        ("", "[", ""),
    ] {
        let count = (LOG_SERVER_MESSAGE_BYTES - begin.len() - end.len()) / part.len();
        let text = format!("{begin}{}{end}", part.repeat(count));
        let (_, most) = peak(|| hear(text.as_bytes()));
        assert!(most < 64 * 1024, "{begin}: {most} bytes");
    }
}
