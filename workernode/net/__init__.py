"""Network connections with deadlines: sockets, HTTP client, WebSocket, event-stream decoder. Knows nothing of tasks."""
