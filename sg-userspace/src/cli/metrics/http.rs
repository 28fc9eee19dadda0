//! As much of HTTP/1.1 (RFC 9112) as a scraper needs: the head of a request, and one answer, after
//! which the connection is closed.

use sg_userspace::observe::metrics::Format;

/// The most bytes that the head of a request may have.
pub(super) const LONGEST: usize = 8 << 10;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Metrics {
        format: Format,
        /// Whether only the head of the answer is wanted.
        head: bool,
    },
    /// What cannot be answered, with the status that says so.
    Refused(Status),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    Timeout,
    TooLong,
    Failed,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::Timeout => "408 Request Timeout",
            Status::TooLong => "431 Request Header Fields Too Large",
            Status::Failed => "500 Internal Server Error",
        }
    }

    /// What a person reads who has opened the wrong page.
    pub(super) fn words(self) -> &'static str {
        match self {
            Status::NotFound => "the metrics are at /metrics\n",
            Status::MethodNotAllowed => "metrics are read with GET\n",
            _ => "",
        }
    }
}

/// Whether a head is complete.
pub(super) fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|four| four == b"\r\n\r\n") || head.windows(2).any(|two| two == b"\n\n")
}

/// Reads the head of a request.
pub(super) fn request(head: &[u8]) -> Request {
    let Ok(head) = std::str::from_utf8(head) else {
        return Request::Refused(Status::BadRequest);
    };
    let mut lines = head.lines();
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = words[..] else {
        return Request::Refused(Status::BadRequest);
    };
    if !version.starts_with("HTTP/1.") {
        return Request::Refused(Status::BadRequest);
    }
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    if path != "/metrics" {
        return Request::Refused(Status::NotFound);
    }
    let head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Request::Refused(Status::MethodNotAllowed),
    };
    let accepted = lines
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
    let wants_openmetrics = accepted
        .flat_map(|(_, value)| value.split(','))
        .any(is_openmetrics);
    let format = match wants_openmetrics {
        true => Format::OpenMetrics,
        false => Format::Text,
    };
    Request::Metrics { format, head }
}

/// Whether one part of an Accept header asks for OpenMetrics, with whatever weight but zero. Who
/// knows it can have it: Prometheus lists the older format too, with a lower weight.
fn is_openmetrics(part: &str) -> bool {
    let mut parameters = part.split(';').map(str::trim);
    let is_it = parameters
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
    let mut weights = parameters.filter_map(|parameter| parameter.strip_prefix("q="));
    is_it && !weights.any(|weight| weight.parse::<f32>().is_ok_and(|weight| weight == 0.0))
}

/// The head of an answer with a body of so many bytes.
pub(super) fn answer(status: Status, content_type: &str, length: usize) -> String {
    let allow = match status {
        Status::MethodNotAllowed => "Allow: GET, HEAD\r\n",
        _ => "",
    };
    format!(
        "HTTP/1.1 {}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}\
         Connection: close\r\n\r\n",
        status.line()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.4";

    #[test]
    fn requests_are_read_or_refused() {
        let metrics = |format, head| Request::Metrics { format, head };
        let with =
            |accept: &str| format!("GET /metrics HTTP/1.1\r\nHost: x\r\naCCept: {accept}\r\n\r\n");
        for (head, expected) in [
            (
                "GET /metrics HTTP/1.1\r\n\r\n".to_owned(),
                metrics(Format::Text, false),
            ),
            (
                "HEAD /metrics?x=1 HTTP/1.0\r\n\r\n".into(),
                metrics(Format::Text, true),
            ),
            (with("*/*"), metrics(Format::Text, false)),
            (with(PROMETHEUS), metrics(Format::OpenMetrics, false)),
            (
                with("text/plain, application/openmetrics-text"),
                metrics(Format::OpenMetrics, false),
            ),
            (
                with("application/openmetrics-text; q=0.0"),
                metrics(Format::Text, false),
            ),
            (
                "GET / HTTP/1.1\r\n\r\n".into(),
                Request::Refused(Status::NotFound),
            ),
            (
                "POST /metrics HTTP/1.1\r\n\r\n".into(),
                Request::Refused(Status::MethodNotAllowed),
            ),
            (
                "GET /metrics\r\n\r\n".into(),
                Request::Refused(Status::BadRequest),
            ),
            (
                "GET  /metrics HTTP/1.1\r\n\r\n".into(),
                Request::Refused(Status::BadRequest),
            ),
            (
                "GET /metrics SMTP/1.1\r\n\r\n".into(),
                Request::Refused(Status::BadRequest),
            ),
            ("\r\n\r\n".into(), Request::Refused(Status::BadRequest)),
        ] {
            assert_eq!(request(head.as_bytes()), expected, "{head}");
        }
        assert_eq!(
            request(b"GET /\xff HTTP/1.1"),
            Request::Refused(Status::BadRequest)
        );
        assert!(is_whole(b"a\r\n\r\n") && is_whole(b"a\n\n") && !is_whole(b"a\r\n"));
    }
}
