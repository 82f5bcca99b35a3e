"""The router over HTTP: endpoints, who may use them, what they take and answer, and its OpenAPI document."""
