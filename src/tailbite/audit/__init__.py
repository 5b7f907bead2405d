"""Flow 3: trap -> client -> observations -> verdict -> report. Would this client connect to itself?"""
