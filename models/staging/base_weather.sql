{{ parse_records('raw', 'weather', key=['origin', 'time_hour']) }}
