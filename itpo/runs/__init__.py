"""The run store: folders named by configurations, files that survive crashes, sweeps. It knows nothing of what is trained."""
