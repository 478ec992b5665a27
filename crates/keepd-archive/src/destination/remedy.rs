//! The advice that fits an answer of an object store.

use crate::Remedy;

/// Marks in an answer, with what to do; the first that is found counts.
const MARKS: [(&[&str], Remedy); 7] = [
    (&["RequestTimeTooSkewed", "Signature not yet current", "Signature expired"], Remedy::Clock),
    (
        &[
            "NoSuchBucket",
            "BucketNotFound",
            "ContainerNotFound",
            "bucket does not exist",
            "container does not exist",
        ],
        Remedy::Bucket,
    ),
    (
        &[
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            "incorrectly configured region",
            "IllegalLocationConstraint",
            "IncorrectEndpoint",
        ],
        Remedy::Region,
    ),
    (
        &[
            "169.254.169.254",
            "metadata.google.internal",
            "InvalidAccessKeyId",
            "AdminUserNotFound",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "InvalidToken",
            "AuthenticationFailed",
            "header is formed correctly including the signature",
            "MissingAccessKeyId",
            "Missing credentials",
        ],
        Remedy::Credentials,
    ),
    (
        &[
            "certificate",
            "UnknownIssuer",
            "tls handshake",
            "HandshakeFailure",
            "InvalidContentType",
        ],
        Remedy::Tls,
    ),
    (&["AccessDenied", "Forbidden", "AuthorizationPermissionMismatch", "403"], Remedy::Permission),
    (
        &[
            "dns error",
            "Connection refused",
            "tcp connect",
            "No route to host",
            "operation timed out",
        ],
        Remedy::Unreachable,
    ),
];

/// The advice for the text of an error and all its causes.
pub(super) fn of(text: &str) -> Remedy {
    let fits = |marks: &[&str]| marks.iter().any(|mark| text.contains(mark));
    MARKS.iter().find(|(marks, _)| fits(marks)).map_or(Remedy::None, |(_, remedy)| *remedy)
}

/// The words of the store, without the markup and what it says beside it.
pub(super) fn reason(text: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(content, _)| content.trim().to_owned())
    };
    let words = match (element("Code"), element("Message")) {
        (Some(code), Some(message)) if !message.is_empty() => format!("{code}: {message}"),
        (Some(code), _) => code,
        _ => text.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    words.trim_end_matches('.').chars().take(REASON_LEN_MAX).collect()
}

/// BOUND: characters of a reason.
const REASON_LEN_MAX: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_lead_to_advice() {
        for (text, expected) in [
            (
                "404: <Error><Code>NoSuchBucket</Code><Message>gone</Message></Error>",
                Remedy::Bucket,
            ),
            ("403 <Code>RequestTimeTooSkewed</Code>", Remedy::Clock),
            ("403 Forbidden: <Code>InvalidAccessKeyId</Code>", Remedy::Credentials),
            (
                "403 <Code>AuthorizationFailure</Code><Message>Make sure the value of the Authorization \
                 header is formed correctly including the signature.</Message>",
                Remedy::Credentials,
            ),
            ("403 Forbidden: <Code>AccessDenied</Code>", Remedy::Permission),
            ("301 <Code>PermanentRedirect</Code>", Remedy::Region),
            ("error sending request - invalid peer certificate: UnknownIssuer", Remedy::Tls),
            ("tcp connect error: Connection refused (os error 111)", Remedy::Unreachable),
            ("error sending request for http://169.254.169.254/latest", Remedy::Credentials),
            ("500 <Code>InternalError</Code>", Remedy::None),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn reasons_are_short() {
        let text = "status 404: <?xml?><Error><Code>NoSuchBucket</Code><Message>It is gone.</Message></Error>";
        assert_eq!(reason(text), "NoSuchBucket: It is gone");
        assert_eq!(reason("some \n other   error."), "some other error");
        assert_eq!(reason(&"x".repeat(10_000)).len(), REASON_LEN_MAX);
    }
}
