//! The pool: `.deb` files by SHA-256, fetched in parallel and checked byte for byte.
//!
//! A download has a deadline made of its size and a lowest useful speed, is tried three times, and appears in the
//! pool by rename once its size and hash are right. Its hash comes from apt's signed index, so where it was fetched
//! from does not matter. A mirror that hangs or serves a wrong byte ends in an error that names the package.

use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest as _, Sha256};

use crate::exec::{Log, interrupted};
use crate::mirror::Mirror;
use crate::solve::{Package, Solution};
use crate::store::hex;

const CONNECTIONS: usize = 6;
const TRIES: u32 = 3;

/// How patient a download is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For connecting, and for the first byte of the answer.
    pub answer: Duration,
    /// Below this many bytes a second a mirror counts as hanging.
    pub slowest: u64,
    /// Between two tries.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { answer: Duration::from_secs(20), slowest: 32 * 1024, pause: Duration::from_secs(1) }
    }
}

/// Where a package lies in the pool.
pub fn path(pool: &Utf8Path, sha256: &str) -> Utf8PathBuf {
    pool.join(format!("{sha256}.deb"))
}

/// The packages of a solution that the pool lacks. A file of the wrong size counts as missing.
pub fn missing<'a>(solution: &'a Solution, pool: &Utf8Path) -> Vec<&'a Package> {
    let there = |p: &Package| std::fs::metadata(path(pool, &p.sha256)).is_ok_and(|m| m.len() == p.size);
    solution.packages.iter().filter(|p| !there(p)).collect()
}

/// Fetches what is missing; `progress` gets (bytes so far, bytes in all).
///
/// # Errors
/// All packages that could not be fetched, each with its reason; or a person interrupted.
pub fn fill(
    packages: &[&Package],
    pool: &Utf8Path,
    mirror: &Mirror,
    patience: Patience,
    log: &Log,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<()> {
    fs_err::create_dir_all(pool)?;
    // Partial files go with this folder, also when a thread still waits for a mirror that hangs.
    let partial = tempfile::Builder::new()
        .prefix(".partial.")
        .tempdir_in(pool)
        .with_context(|| format!("making a folder in {pool}"))?;
    let total: u64 = packages.iter().map(|p| p.size).sum();
    let job = Arc::new(Job {
        packages: packages.iter().map(|p| (*p).clone()).collect(),
        next: AtomicUsize::new(0),
        pool: pool.to_owned(),
        partial: partial.path().to_owned(),
        mirror: mirror.clone(),
        patience,
        agent: agent(mirror, patience)?,
        log: log.clone(),
    });
    let (events, received) = mpsc::channel();
    // Not scoped: a blocked read cannot be woken, and Ctrl-C must not wait for it.
    for _ in 0..CONNECTIONS.min(packages.len()) {
        let (job, events) = (Arc::clone(&job), events.clone());
        std::thread::spawn(move || job.work(&events));
    }
    drop(events);
    let (mut done, mut failures) = (0, Vec::new());
    loop {
        interrupted()?;
        match received.recv_timeout(Duration::from_millis(100)) {
            Ok(Event::Bytes(n)) => {
                done += n;
                progress(done, total);
            }
            Ok(Event::Failed(why)) => failures.push(why),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    if job.next.load(Ordering::Relaxed) < packages.len() {
        bail!("a download thread panicked");
    }
    failures.sort();
    match failures.len() {
        0 => Ok(()),
        n => bail!("{n} of {} packages could not be fetched:\n  {}", packages.len(), failures.join("\n  ")),
    }
}

/// What the download threads share.
struct Job {
    packages: Vec<Package>,
    next: AtomicUsize,
    pool: Utf8PathBuf,
    partial: PathBuf,
    mirror: Mirror,
    patience: Patience,
    agent: ureq::Agent,
    log: Log,
}

/// What they tell.
enum Event {
    Bytes(u64),
    Failed(String),
}

impl Job {
    /// One thread's work. Sending fails once nobody listens any more: then the work is over, too.
    fn work(&self, events: &mpsc::Sender<Event>) {
        while let Some(package) = self.packages.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let count = |n| drop(events.send(Event::Bytes(n)));
            if let Err(error) = self.fetch(package, &count) {
                let why = format!("{} {}: {error:#}", package.name, package.version);
                if events.send(Event::Failed(why)).is_err() {
                    return;
                }
            }
        }
    }

    fn fetch(&self, package: &Package, count: &dyn Fn(u64)) -> Result<()> {
        let pool = &self.pool;
        let base = if package.security { &self.mirror.security } else { &self.mirror.main };
        // A `+` or `~` in a path is itself; only `%` could be read as something else, and pool paths have none.
        let url = format!("{base}/{}", package.path);
        let mut counted = 0;
        let mut attempt = || -> Result<()> {
            let deadline =
                self.patience.answer + Duration::from_secs(package.size / self.patience.slowest.max(1));
            let mut file = tempfile::NamedTempFile::new_in(&self.partial)
                .with_context(|| format!("making a file in {pool}"))?;
            let mut hash = Sha256::new();
            let mut reader: Box<dyn Read> = match url.strip_prefix("file:") {
                Some(path) => Box::new(fs_err::File::open(path.trim_start_matches("//"))?),
                None => {
                    let response =
                        self.agent.get(&url).config().timeout_global(Some(deadline)).build().call()?;
                    Box::new(response.into_body().into_reader().take(package.size + 1))
                }
            };
            let mut buffer = vec![0; 1 << 16];
            let mut size = 0;
            loop {
                interrupted()?;
                let n = reader.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                hash.update(&buffer[..n]);
                file.write_all(&buffer[..n]).with_context(|| format!("writing into {pool}"))?;
                size += n as u64;
                if size > counted {
                    count(size - counted);
                    counted = size;
                }
            }
            if size != package.size {
                bail!("the mirror sent {size} bytes instead of {}", package.size);
            }
            let got = hex(&hash.finalize());
            if got != package.sha256 {
                bail!(
                    "the mirror sent wrong bytes: SHA-256 is {got}, the signed index says {}",
                    package.sha256
                );
            }
            file.persist(path(pool, &package.sha256))
                .with_context(|| format!("putting a file into {pool}"))?;
            Ok(())
        };
        let mut last = None;
        for n in 1..=TRIES {
            match attempt() {
                Ok(()) => return Ok(()),
                Err(error) if error.is::<crate::exec::Interrupted>() => return Err(error),
                Err(error) => {
                    self.log.line(&format!("try {n} of {TRIES}: {url}: {error:#}"))?;
                    last = Some(error);
                }
            }
            if n < TRIES {
                std::thread::sleep(self.patience.pause);
            }
        }
        let error = last.unwrap_or_else(|| anyhow!("not tried"));
        Err(error.context(format!("fetching {url} failed {TRIES} times")))
    }
}

fn agent(mirror: &Mirror, patience: Patience) -> Result<ureq::Agent> {
    let mut config = ureq::Agent::config_builder()
        .timeout_connect(Some(patience.answer))
        .timeout_recv_response(Some(patience.answer))
        .user_agent("cipolla-build");
    if let Some(proxy) = &mirror.proxy {
        let proxy =
            ureq::Proxy::new(proxy).with_context(|| format!("reading apt's proxy setting {proxy}"))?;
        config = config.proxy(Some(proxy));
    }
    Ok(config.build().new_agent())
}

/// Checks the bytes of every package of a solution in the pool.
///
/// # Errors
/// A file is damaged: it is removed, and the message says to build again.
pub fn verify(solution: &Solution, pool: &Utf8Path) -> Result<()> {
    for package in &solution.packages {
        interrupted()?;
        let file = path(pool, &package.sha256);
        if crate::store::sha256_file(&file)? != package.sha256 {
            fs_err::remove_file(&file)?;
            bail!(
                "{} was damaged in the pool and is removed now; build again to fetch it anew",
                package.name
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    /// Serves each connection with what `answer` gives for the request's path; `None` hangs until the peer leaves.
    fn serve(answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let first = lines.next().unwrap().unwrap();
                    while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
                    let path = first.split(' ').nth(1).unwrap().to_owned();
                    if let Some(body) = answer(&path) {
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                        let _ = stream.write_all(head.as_bytes());
                        let _ = stream.write_all(&body);
                    } else {
                        let _ = lines.next();
                    }
                });
            }
        });
        format!("http://{address}")
    }

    fn package(name: &str, body: &[u8]) -> Package {
        Package {
            name: name.into(),
            version: "1".into(),
            arch: "all".into(),
            essential: false,
            path: format!("pool/{name}.deb"),
            security: false,
            size: body.len() as u64,
            sha256: crate::store::sha256(body),
            stanza: String::new(),
        }
    }

    fn run(server: &str, packages: &[Package]) -> (tempfile::TempDir, Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let log = Log::create(&root.join("log"), false).unwrap();
        let mirror = Mirror { main: server.into(), security: server.into(), proxy: None };
        let patience = Patience {
            answer: Duration::from_millis(300),
            slowest: 1 << 20,
            pause: Duration::from_millis(1),
        };
        let list: Vec<&Package> = packages.iter().collect();
        let result = fill(&list, &root.join("pool"), &mirror, patience, &log, &|_, _| ());
        (dir, result)
    }

    #[test]
    fn good_bytes_land_in_the_pool() {
        let server = serve(|path| Some(path.as_bytes().to_vec()));
        let packages = [package("a", b"/pool/a.deb"), package("b", b"/pool/b.deb")];
        let (dir, result) = run(&server, &packages);
        result.unwrap();
        let pool = Utf8Path::from_path(dir.path()).unwrap().join("pool");
        let solution = Solution { packages: packages.to_vec() };
        assert!(missing(&solution, &pool).is_empty());
        verify(&solution, &pool).unwrap();
    }

    #[test]
    fn a_wrong_byte_is_an_error_and_leaves_nothing() {
        let server = serve(|_| Some(b"evil".to_vec()));
        let (dir, result) = run(&server, &[package("a", b"good"), package("b", b"longer than that")]);
        let text = format!("{:#}", result.unwrap_err());
        assert!(text.contains("2 of 2 packages"), "{text}");
        assert!(text.contains("a 1: fetching") && text.contains("wrong bytes"), "{text}");
        assert!(text.contains("sent 4 bytes instead of 16"), "{text}");
        assert_eq!(fs_err::read_dir(dir.path().join("pool")).unwrap().count(), 0);
    }

    #[test]
    fn a_hanging_mirror_is_an_error_in_bounded_time() {
        let server = serve(|_| None);
        let started = std::time::Instant::now();
        let (_dir, result) = run(&server, &[package("a", b"good")]);
        let text = format!("{:#}", result.unwrap_err());
        assert!(text.contains("failed 3 times") && text.contains("timeout"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn damage_in_the_pool_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Utf8Path::from_path(dir.path()).unwrap();
        let package = package("a", b"good");
        fs_err::write(path(pool, &package.sha256), b"evil").unwrap();
        let solution = Solution { packages: vec![package] };
        assert!(missing(&solution, pool).is_empty());
        assert!(verify(&solution, pool).unwrap_err().to_string().contains("damaged"));
        assert_eq!(missing(&solution, pool).len(), 1);
    }
}
