"""The engine that is somebody else's: a server of the operator's, spoken to over HTTP."""
