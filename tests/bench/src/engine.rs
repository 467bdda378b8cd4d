//! The floor: raw calls to the engine over its Unix socket, by an HTTP client that does only what these calls need. Written
//! for this harness alone: what the agent's client costs must not be hidden in the floor too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// No call of a healthy engine takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection that is used for one call after the other.
pub(crate) struct Engine {
    socket: PathBuf,
    reader: BufReader<UnixStream>,
}

/// What a container printed, frame by frame.
pub(crate) struct Attached(BufReader<UnixStream>);

struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
}

type Outcome<T> = Result<T, String>;

fn told(doing: &str) -> impl Fn(std::io::Error) -> String + '_ {
    move |error| format!("engine: {doing}: {error}")
}

fn connect(socket: &Path) -> Outcome<BufReader<UnixStream>> {
    let stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(told("set a time limit"))?;
    Ok(BufReader::with_capacity(64 * 1024, stream))
}

fn send(reader: &mut BufReader<UnixStream>, line: &str, headers: &str, body: Option<&Value>) -> Outcome<()> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: docker\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    reader.get_mut().write_all(request.as_bytes()).map_err(told(line))
}

fn read_line(reader: &mut BufReader<UnixStream>) -> Outcome<String> {
    let mut line = String::new();
    reader.read_line(&mut line).map_err(told("read a line"))?;
    Ok(line.trim_end().to_owned())
}

fn head(reader: &mut BufReader<UnixStream>) -> Outcome<Head> {
    let first = read_line(reader)?;
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
    let mut head = Head { status: status.ok_or(format!("engine: '{first}'"))?, length: None, chunked: false };
    loop {
        let line = read_line(reader)?.to_ascii_lowercase();
        if line.is_empty() {
            return Ok(head);
        }
        if let Some(length) = line.strip_prefix("content-length:") {
            head.length = length.trim().parse().ok();
        }
        head.chunked |= line.starts_with("transfer-encoding:") && line.ends_with("chunked");
    }
}

fn body(reader: &mut BufReader<UnixStream>, head: &Head) -> Outcome<Vec<u8>> {
    let mut out = Vec::new();
    if !head.chunked {
        out.resize(head.length.unwrap_or(0), 0);
        reader.read_exact(&mut out).map_err(told("read an answer"))?;
        return Ok(out);
    }
    loop {
        let line = read_line(reader)?;
        let size = usize::from_str_radix(&line, 16).map_err(|_| format!("engine: chunk of size '{line}'"))?;
        let start = out.len();
        out.resize(start + size, 0);
        reader.read_exact(&mut out[start..]).map_err(told("read a chunk"))?;
        read_line(reader)?;
        if size == 0 {
            return Ok(out);
        }
    }
}

impl Engine {
    pub(crate) fn open(socket: &Path) -> Outcome<Self> {
        Ok(Self { socket: socket.to_owned(), reader: connect(socket)? })
    }

    /// One call that must succeed; its answer, null when it has none.
    pub(crate) fn call(&mut self, line: &str, body_sent: Option<&Value>) -> Outcome<Value> {
        send(&mut self.reader, line, "", body_sent)?;
        let head = head(&mut self.reader)?;
        let text = body(&mut self.reader, &head)?;
        if head.status >= 300 {
            return Err(format!("engine: {line}: {} {}", head.status, String::from_utf8_lossy(&text)));
        }
        Ok(serde_json::from_slice(&text).unwrap_or(Value::Null))
    }

    /// Ids of all containers with this label.
    pub(crate) fn labelled(&mut self, label: &str) -> Outcome<Vec<String>> {
        let filters: String = json!({ "label": [label] }).to_string().bytes().map(|b| format!("%{b:02X}")).collect();
        let list = self.call(&format!("GET /containers/json?all=1&filters={filters}"), None)?;
        let ids = list.as_array().into_iter().flatten().filter_map(|row| row["Id"].as_str());
        Ok(ids.map(str::to_owned).collect())
    }

    /// The create request that makes a container like this one, down to the last limit. Labelled as this harness's.
    pub(crate) fn like(&mut self, id: &str, label: &str) -> Outcome<Value> {
        let seen = self.call(&format!("GET /containers/{id}/json"), None)?;
        let mut request = seen["Config"].clone();
        let fields = request.as_object_mut().ok_or("engine: an inspection without Config")?;
        fields.remove("Hostname");
        fields.insert("Labels".into(), json!({ label: "true" }));
        fields.insert("HostConfig".into(), seen["HostConfig"].clone());
        Ok(request)
    }

    /// create, attach, start, the program to its stdin, `follow` what it prints, wait, remove: the least that running a
    /// script in a new container takes. Returns the time for all of it.
    pub(crate) fn run(
        &mut self,
        request: &Value,
        program: &str,
        follow: impl FnOnce(&mut Attached) -> Outcome<()>,
    ) -> Outcome<Duration> {
        let begun = Instant::now();
        let made = self.call("POST /containers/create", Some(request))?;
        let id = made["Id"].as_str().ok_or("engine: created without an id")?.to_owned();
        let ended = self.run_made(&id, program, follow);
        if ended.is_err() {
            let _ = self.call(&format!("DELETE /containers/{id}?force=1&v=1"), None);
        }
        ended?;
        Ok(begun.elapsed())
    }

    /// The time of create and start alone. The container is removed after it.
    pub(crate) fn create_and_start(&mut self, request: &Value) -> Outcome<Duration> {
        let begun = Instant::now();
        let made = self.call("POST /containers/create", Some(request))?;
        let id = made["Id"].as_str().ok_or("engine: created without an id")?.to_owned();
        let started = self.call(&format!("POST /containers/{id}/start"), None);
        let time = begun.elapsed();
        self.call(&format!("DELETE /containers/{id}?force=1&v=1"), None)?;
        started.map(|_| time)
    }

    /// The times of a run: create, attach and start, script and output, wait, remove.
    pub(crate) fn steps(&mut self, request: &Value, program: &str) -> Outcome<[Duration; 5]> {
        let mut last = Instant::now();
        let mut step = || {
            let (now, before) = (Instant::now(), last);
            last = now;
            now - before
        };
        let made = self.call("POST /containers/create", Some(request))?;
        let create = step();
        let id = made["Id"].as_str().ok_or("engine: created without an id")?.to_owned();
        let mut attached = self.attach(&id)?;
        self.call(&format!("POST /containers/{id}/start"), None)?;
        let start = step();
        let stream = attached.0.get_mut();
        stream.write_all(program.as_bytes()).map_err(told("write to stdin"))?;
        stream.shutdown(Shutdown::Write).map_err(told("close stdin"))?;
        attached.drain()?;
        let script = step();
        self.call(&format!("POST /containers/{id}/wait"), None)?;
        let wait = step();
        self.call(&format!("DELETE /containers/{id}?v=1"), None)?;
        Ok([create, start, script, wait, step()])
    }

    /// Until the first frame of a container's output: of one that is made for the script, with create and start, and of one that
    /// waits already. Both are removed.
    pub(crate) fn first_frames(&mut self, request: &Value, program: &str) -> Outcome<(Duration, Duration)> {
        let begun = Instant::now();
        let cold = self.first_frame(request, program, begun, Duration::ZERO)?;
        Ok((cold.0, self.first_frame(request, program, begun, Duration::from_millis(300))?.1))
    }

    /// Since `begun`, and since the program was sent, after a `rest`.
    fn first_frame(
        &mut self,
        request: &Value,
        program: &str,
        begun: Instant,
        rest: Duration,
    ) -> Outcome<(Duration, Duration)> {
        let made = self.call("POST /containers/create", Some(request))?;
        let id = made["Id"].as_str().ok_or("engine: created without an id")?.to_owned();
        let mut attached = self.attach(&id)?;
        self.call(&format!("POST /containers/{id}/start"), None)?;
        std::thread::sleep(rest);
        let sent = Instant::now();
        let stream = attached.0.get_mut();
        stream.write_all(program.as_bytes()).map_err(told("write to stdin"))?;
        stream.shutdown(Shutdown::Write).map_err(told("close stdin"))?;
        attached.frame(&mut Vec::new())?;
        let times = (begun.elapsed(), sent.elapsed());
        self.call(&format!("DELETE /containers/{id}?force=1&v=1"), None)?;
        Ok(times)
    }

    fn run_made(&mut self, id: &str, program: &str, follow: impl FnOnce(&mut Attached) -> Outcome<()>) -> Outcome<()> {
        let mut attached = self.attach(id)?;
        self.call(&format!("POST /containers/{id}/start"), None)?;
        let stream = attached.0.get_mut();
        stream.write_all(program.as_bytes()).map_err(told("write to stdin"))?;
        stream.shutdown(Shutdown::Write).map_err(told("close stdin"))?;
        follow(&mut attached)?;
        let status = self.call(&format!("POST /containers/{id}/wait"), None)?;
        if status["StatusCode"] != 0 {
            return Err(format!("engine: the floor's container ended with {status}"));
        }
        self.call(&format!("DELETE /containers/{id}?v=1"), None).map(|_| ())
    }

    fn attach(&self, id: &str) -> Outcome<Attached> {
        let mut reader = connect(&self.socket)?;
        let line = format!("POST /containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        send(&mut reader, &line, "Connection: Upgrade\r\nUpgrade: tcp\r\n", None)?;
        match head(&mut reader)?.status {
            101 => Ok(Attached(reader)),
            status => Err(format!("engine: attach: {status}")),
        }
    }
}

impl Attached {
    /// The next frame's payload into `buffer`; false at the end.
    pub(crate) fn frame(&mut self, buffer: &mut Vec<u8>) -> Outcome<bool> {
        if self.0.fill_buf().map_err(told("read output"))?.is_empty() {
            return Ok(false);
        }
        let mut header = [0; 8];
        self.0.read_exact(&mut header).map_err(told("read output"))?;
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        buffer.resize(length as usize, 0);
        self.0.read_exact(buffer).map_err(told("read output"))?;
        Ok(true)
    }

    /// Reads to the end and keeps nothing.
    pub(crate) fn drain(&mut self) -> Outcome<()> {
        let mut buffer = Vec::new();
        while self.frame(&mut buffer)? {}
        Ok(())
    }
}
